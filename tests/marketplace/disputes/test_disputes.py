"""Disputes over HTTP: who sees one, is heard, may claim; and how a ruling waits for that."""

import secrets

import pytest

from ledger.contradiction import EquivocationProof, verify_proof
from ledger.dispute_models import DisputeKind
from ledger.disputes import Opening, open_dispute
from ledger.invariants import check
from ledger.rulings import Decision
from marketplace.disputes import service
from marketplace.disputes.errors import NothingToDispute, RulingTooEarly, TooManyClaims
from marketplace.disputes.repository import DisputeRepository
from marketplace.errors import Conflict
from marketplace.machines import service as machines
from protocol.envelope import open_envelope, seal
from protocol.receipt import CosignedReceipt, Receipt, cosign
from tests.marketplace.world import error_of, manifest, three_providers
from tests.postgres import both_engines

pytestmark = both_engines


def lying(paid, lease, provider, **changes) -> bytes:
    """The receipt of a hop that says it sent something else."""
    envelope = CosignedReceipt.decode(paid.receipt(lease, provider)).envelope
    honest = open_envelope(Receipt, envelope)
    fields = {name: getattr(honest, name) for name in honest.__slots__}
    said = Receipt(**{**fields, "link_out_hash": b"\x99" * 32, **changes})
    return cosign(seal(said, paid.payer).encode(), provider.key).encode()


@pytest.fixture
async def pool(world):
    """Three machines, the middle one bound to an account; and somebody who pays."""
    world.providers = three_providers()
    world.owner, world.payer = await world.buyer(), await world.buyer(dollars=1)
    with world.market.database.transaction() as session:
        machines.bind(
            session, world.providers[1].peer, world.owner.account_id, "box",
            bound_by="test", now_s=world.clock.now,
        )  # fmt: skip
    await world.register(manifest())
    await world.publish(manifest(), *world.providers)
    return world


async def settled(world, *, lies: bool = True):
    paid = await world.lease(world.payer, (await world.quote(world.payer)).json())
    for index, (lease, provider) in enumerate(zip(paid.leases, world.providers, strict=True)):
        is_false = lies and index == 1
        receipt = lying(paid, lease, provider) if is_false else paid.receipt(lease, provider)
        await world.hand_in(provider, receipt)
    await world.close(world.payer, paid)
    world.worker.do("settle")
    return paid


async def disputes_of(world, buyer) -> list[dict]:
    answer = await world.http.get("/v1/disputes", headers=buyer.headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def rule(world, dispute, *, loser: int | None = None):
    """Everything to the providers, but for the one at hop `loser`."""
    decisions = []
    for lease in dispute["leases"]:
        nanos = lease["parked_nanos"]
        loses = loser is not None and lease["provider"] == world.providers[loser].peer
        parts = (0, nanos) if loses else (nanos, 0)
        decisions.append(Decision(bytes.fromhex(lease["lease_id"]), *parts))
    with world.market.database.transaction() as session:
        return service.rule(
            session, bytes.fromhex(dispute["dispute_id"]), decisions,
            reason="heard and ruled", by="a and b", now_s=world.clock.now,
        )  # fmt: skip


async def state(world, dispute, who, body="I sent what I said."):
    path = f"/v1/disputes/{dispute['dispute_id']}/statements"
    json = {"statement_id": secrets.token_hex(16), "body": body}
    if hasattr(who, "headers"):
        return await world.http.post(path, headers=who.headers, json=json)
    return await world.node(who.key, "POST", path, body=json)


async def test_those_concerned_see_it_and_nobody_else(pool):
    await settled(pool)
    (seen,) = await disputes_of(pool, pool.owner)
    assert (seen["kind"], seen["state"], len(seen["leases"])) == ("link_mismatch", "open", 2)
    assert seen["mismatches"][0]["hop_index"] == 1
    assert await disputes_of(pool, pool.payer) == [seen]
    stranger = await pool.buyer()
    assert await disputes_of(pool, stranger) == []
    path = f"/v1/disputes/{seen['dispute_id']}"
    assert (await pool.http.get(path, headers=pool.owner.headers)).json() == seen
    hidden = await pool.http.get(path, headers=stranger.headers)
    assert error_of(hidden) == (404, "dispute_unknown")
    signed = await pool.node(pool.providers[1].key, "GET", path)
    assert signed.json() == seen


async def test_no_dispute_holds_up_others(pool):
    await settled(pool)
    await settled(pool, lies=False)
    assert len(await disputes_of(pool, pool.payer)) == 1
    with pool.market.database.reading() as session:
        assert check(session) == []


async def test_nobody_loses_money_unheard(pool):
    await settled(pool)
    (dispute,) = await disputes_of(pool, pool.owner)
    with pytest.raises(RulingTooEarly):
        rule(pool, dispute, loser=1)
    assert (await state(pool, dispute, pool.providers[1])).status_code == 201
    assert len(rule(pool, dispute, loser=1)) == 2
    (after,) = await disputes_of(pool, pool.owner)
    assert (after["state"], after["ruling"]) == ("ruled", "heard and ruled")
    assert after["statements"][0]["author"] == pool.providers[1].peer
    assert error_of(await state(pool, dispute, pool.owner)) == (409, "statement_too_late")


async def test_after_its_time_a_ruling_waits_for_nobody(pool):
    await settled(pool)
    (dispute,) = await disputes_of(pool, pool.owner)
    pool.pass_time(service.APPEAL_S + 1)
    assert error_of(await state(pool, dispute, pool.owner)) == (409, "statement_too_late")
    assert len(rule(pool, dispute, loser=1)) == 2


async def test_what_goes_to_providers_may_be_ruled_at_once(pool):
    await settled(pool)
    (dispute,) = await disputes_of(pool, pool.owner)
    assert len(rule(pool, dispute)) == 2


async def test_statements_have_limits_and_come_once(pool):
    await settled(pool)
    (dispute,) = await disputes_of(pool, pool.owner)
    path = f"/v1/disputes/{dispute['dispute_id']}/statements"
    same = {"statement_id": secrets.token_hex(16), "body": "mine"}
    answers = [await pool.http.post(path, headers=pool.owner.headers, json=same) for _ in range(2)]
    assert [a.status_code for a in answers] == [201, 201]
    other = await pool.http.post(path, headers=pool.owner.headers, json={**same, "body": "another"})
    assert error_of(other) == (409, "conflict")
    for _ in range(4):
        assert (await state(pool, dispute, pool.owner)).status_code == 201
    assert error_of(await state(pool, dispute, pool.owner)) == (429, "too_many_statements")
    stranger = await pool.buyer()
    assert error_of(await state(pool, dispute, stranger)) == (404, "dispute_unknown")


async def test_a_claim_of_bad_output_parks_what_is_left_once(pool):
    paid = await settled(pool, lies=False)
    lease = paid.leases[1]
    dispute_id = secrets.token_bytes(16)

    def claim(dispute=dispute_id, filed_by="referee"):
        with pool.market.database.transaction() as session:
            return service.claim_bad_output(
                session, dispute, lease.lease_id, claim="not the model", evidence=b"sketch",
                filed_by=filed_by, now_s=pool.clock.now,
            )  # fmt: skip

    parked = claim()
    assert parked > 0
    assert claim() == parked
    with pytest.raises(Conflict):
        claim(filed_by="another")
    with pytest.raises(NothingToDispute):
        claim(secrets.token_bytes(16))
    (dispute,) = await disputes_of(pool, pool.owner)
    assert (dispute["kind"], dispute["leases"][0]["parked_nanos"]) == ("bad_output", parked)
    earnings = await pool.node(pool.providers[1].key, "GET", "/v1/earnings")
    assert earnings.json()["earned_nanos"] >= 0
    assert len(rule(pool, dispute)) == 1
    with pool.market.database.reading() as session:
        assert check(session) == []


async def test_unproven_claims_of_one_filer_are_limited(pool):
    paid = await settled(pool, lies=False)
    arguments = {"claim": "bad", "evidence": b"", "filed_by": "referee", "now_s": pool.clock.now}
    with pool.market.database.transaction() as session:
        for _ in range(service.OPEN_CLAIMS_MAX):
            opening = Opening(
                secrets.token_bytes(16), DisputeKind.BAD_OUTPUT, paid.session_id, "bad",
                pool.clock.now, "referee",
            )  # fmt: skip
            open_dispute(session, opening, ())
        with pytest.raises(TooManyClaims):
            service.claim_bad_output(
                session, secrets.token_bytes(16), paid.leases[0].lease_id, **arguments
            )


async def test_operators_alone_see_what_is_open(pool):
    for path in ("/v1/operator/disputes", "/v1/operator/refusals"):
        answer = await pool.http.get(path, headers=pool.owner.headers)
        assert answer.status_code in (401, 403)


async def test_unsigned_tails_count_against_the_payer(pool):
    paid = await pool.lease(pool.payer, (await pool.quote(pool.payer)).json())
    for lease, provider in zip(paid.leases, pool.providers, strict=True):
        await pool.hand_in(provider, paid.receipt(lease, provider, final=False))
    pool.pass_time(100_000)
    pool.worker.do("settle")
    with pool.market.database.reading() as session:
        (row,) = DisputeRepository(session).refusals(0, 10)
    assert row == (pool.payer.account_id, 3, 3, 3, 0)


async def test_a_proof_of_equivocation_is_for_anybody(pool):
    paid = await pool.lease(pool.payer, (await pool.quote(pool.payer)).json())
    lease, provider = paid.leases[0], pool.providers[0]
    path = f"/v1/equivocations/{lease.lease_id.hex()}"
    assert error_of(await pool.http.get(path)) == (404, "dispute_unknown")
    await pool.hand_in(provider, paid.receipt(lease, provider, output=5, final=False))
    await pool.hand_in(provider, paid.receipt(lease, provider, output=6, final=False))
    answer = await pool.http.get(path)
    proof = EquivocationProof.decode(answer.content)
    assert verify_proof(proof, pool.market.key.peer_id)[0] == lease
