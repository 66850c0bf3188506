"""Claims of bad output: what is within reach, what the log says, and when a ruling may come."""

import secrets

import pytest

from ledger import disputes
from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.errors import DisputeRuled, LedgerError
from ledger.leaf import ParkLeaf, decode_leaf
from ledger.log import Log
from ledger.rulings import Decision
from marketplace.disputes import service
from marketplace.disputes.errors import RulingTooEarly
from tests.marketplace.disputes.test_disputes import disputes_of, pool, rule, settled, state
from tests.postgres import both_engines

__all__ = ["pool"]

pytestmark = both_engines

DAY_S = 86_400


def claim(pool, lease) -> tuple[bytes, int]:
    dispute_id = secrets.token_bytes(16)
    with pool.market.database.transaction() as session:
        parked = service.claim_bad_output(
            session, dispute_id, lease.lease_id, claim="not the model", evidence=b"sketch",
            filed_by="referee", now_s=pool.clock.now,
        )  # fmt: skip
    return dispute_id, parked


def balance(pool, code, owner) -> int:
    with pool.market.database.reading() as session:
        return Book(session).balance(AccountRef(code, owner)).posted_nanos


async def test_what_is_parked_is_in_the_log(pool):
    lease = (await settled(pool, lies=False)).leases[1]
    with pool.market.database.reading() as session:
        before = Log(session).size
    dispute_id, parked = claim(pool, lease)
    with pool.market.database.reading() as session:
        log = Log(session)
        assert log.size == before + 1
        entry = decode_leaf(log.page(before, 1)[0])
    reason = "bad_output"
    assert entry == ParkLeaf(dispute_id, lease.lease_id, lease.provider, parked, reason)


async def test_what_is_held_is_within_reach_and_what_is_payable_is_not(pool):
    lease = (await settled(pool, lies=False)).leases[1]
    owner = pool.owner.account_id
    earned = balance(pool, AccountCode.PROVIDER_EARNED, str(lease.provider))
    pool.pass_time(20 * DAY_S)
    pool.worker.do("release")
    held = balance(pool, AccountCode.PROVIDER_HELD, owner)
    payable = balance(pool, AccountCode.PROVIDER_PAYABLE, owner)
    assert (held > 0, held + payable) == (True, earned)
    _, parked = claim(pool, lease)
    assert parked == held == balance(pool, AccountCode.DISPUTED, lease.lease_id.hex())
    assert balance(pool, AccountCode.PROVIDER_HELD, owner) == 0
    assert balance(pool, AccountCode.PROVIDER_PAYABLE, owner) == payable


async def test_in_its_last_second_one_may_be_heard_and_no_ruling_comes(pool):
    await settled(pool)
    (dispute,) = await disputes_of(pool, pool.owner)
    pool.pass_time(service.APPEAL_S)
    with pytest.raises(RulingTooEarly):
        rule(pool, dispute, loser=1)
    assert (await state(pool, dispute, pool.owner)).status_code == 201


async def test_a_ruling_divides_what_is_parked_and_is_not_given_twice(pool):
    lease, other = (await settled(pool, lies=False)).leases[1:3]
    dispute_id, parked = claim(pool, lease)

    def say(*decisions, reason="heard"):
        with pool.market.database.transaction() as session:
            return disputes.rule(
                session, dispute_id, decisions, reason=reason, by="x", now_s=pool.clock.now
            )

    whole = Decision(lease.lease_id, parked - 1, 1)
    for decisions in (
        [Decision(lease.lease_id, parked + 1, -1)],
        [Decision(lease.lease_id, -1, parked + 1)],
        [Decision(lease.lease_id, parked, 1)],
        [Decision(lease.lease_id, parked - 1, 0)],
        [Decision(other.lease_id, parked, 0)],
        [whole, Decision(other.lease_id, 0, 0)],
        [whole, whole],
        [],
    ):
        with pytest.raises(LedgerError, match=r"decides on each lease|do not divide"):
            say(*decisions)
    assert len(say(whole)) == 1
    assert len(say(whole)) == 0
    for decisions in (
        [Decision(lease.lease_id, parked, 0)],
        [Decision(other.lease_id, parked - 1, 1)],
        [whole, Decision(other.lease_id, 0, 0)],
        [whole, whole],
        [],
    ):
        with pytest.raises(DisputeRuled):
            say(*decisions)


async def test_what_was_ruled_is_no_open_claim(pool):
    lease = (await settled(pool, lies=False)).leases[1]
    dispute_id, parked = claim(pool, lease)
    with pool.market.database.transaction() as session:
        repository = service.DisputeRepository(session)
        assert repository.open_claims_of("referee") == 1
        decisions = [Decision(lease.lease_id, parked, 0)]
        service.rule(
            session, dispute_id, decisions, reason="heard", by="a and b", now_s=pool.clock.now
        )
        assert repository.open_claims_of("referee") == 0
