"""Receipts over HTTP; what makes one good is tested with the ledger."""

import base64
import hashlib

import pytest

from protocol.acknowledgement import ReceiptResult, open_acknowledgement
from protocol.errors import RemoteProtocolError
from protocol.identity import KeyPair
from tests.marketplace.world import Provider, encoded, error_of, manifest, three_providers


@pytest.fixture
async def paid(world):
    """A leased session, its buyer and its providers."""
    await world.register(manifest())
    world.providers = three_providers()
    await world.publish(manifest(), *world.providers)
    world.payer = await world.buyer(dollars=1)
    return await world.lease(world.payer, (await world.quote(world.payer)).json())


async def test_a_replay_is_acknowledged_and_pays_nothing(world, paid):
    provider, lease = world.providers[0], paid.leases[0]
    receipt = paid.receipt(lease, provider)
    first, second = await world.hand_in(provider, receipt, receipt)
    (third,) = await world.hand_in(provider, receipt)
    assert [r["status"] for r in (first, second, third)] == ["accepted", "duplicate", "duplicate"]
    assert first["leaf_index"] == second["leaf_index"] == third["leaf_index"] is not None
    assert first["lease_id"] == lease.lease_id.hex()
    statement = (await world.node(provider.key, "GET", "/v1/provider")).json()
    assert len(statement["sessions"]) == 1
    assert (statement["sessions"][0]["settled"], statement["earned_nanos"]) == (False, 0)


async def test_an_older_receipt_is_superseded(world, paid):
    provider, lease = world.providers[0], paid.leases[0]
    newer = paid.receipt(lease, provider, output=5, sequence=2, final=False)
    older = paid.receipt(lease, provider, output=1, sequence=1, final=False)
    await world.hand_in(provider, newer)
    (result,) = await world.hand_in(provider, older)
    assert (result["status"], result["leaf_index"]) == ("superseded", None)


async def test_anothers_receipt_is_rejected(world, paid):
    stolen = paid.receipt(paid.leases[0], world.providers[0])
    (result,) = await world.hand_in(Provider(world.providers[0].span), stolen)
    assert result["status"] == "rejected"
    assert result["reason"]


async def test_a_receipt_the_payer_did_not_sign_is_rejected(world, paid):
    paid.payer = KeyPair.generate()
    forged = paid.receipt(paid.leases[0], world.providers[0])
    (result,) = await world.hand_in(world.providers[0], forged)
    assert result["status"] == "rejected"


async def test_more_than_the_lease_allows_is_rejected(world, paid):
    greedy = paid.receipt(paid.leases[0], world.providers[0], output=51, prompt=100)
    (result,) = await world.hand_in(world.providers[0], greedy)
    assert result["status"] == "rejected"


async def test_one_bad_receipt_does_not_harm_its_batch(world, paid):
    provider = world.providers[0]
    results = await world.hand_in(provider, b"junk", paid.receipt(paid.leases[0], provider))
    assert [result["status"] for result in results] == ["rejected", "accepted"]
    assert results[0]["lease_id"] == ""


@pytest.mark.parametrize("receipts", [[], ["!"], [1], None, [encoded(b"x")] * 1001])
async def test_a_batch_has_limits(world, receipts):
    body = {"receipts": receipts}
    answer = await world.node(KeyPair.generate(), "POST", "/v1/receipts", body=body)
    assert error_of(answer) == (400, "malformed")


async def test_the_answer_is_signed_and_so_is_a_refusal(world, paid):
    provider = world.providers[0]
    batch = [b"junk", paid.receipt(paid.leases[0], provider)]
    body = {"receipts": [encoded(receipt) for receipt in batch]}
    answer = (await world.node(provider.key, "POST", "/v1/receipts", body=body)).json()
    results = [
        ReceiptResult(hashlib.sha256(receipt).digest(), r["status"], r["reason"], r["leaf_index"])
        for receipt, r in zip(batch, answer["results"], strict=True)
    ]
    envelope = base64.b64decode(answer["acknowledgement"])
    market = world.market.key.peer_id
    said = open_acknowledgement(envelope, results, market=market, provider=provider.key.peer_id)
    assert (said.count, said.at_s) == (2, world.clock.now)
    assert [result.status for result in results] == ["rejected", "accepted"]
    with pytest.raises(RemoteProtocolError, match="other results"):
        open_acknowledgement(envelope, results[::-1], market=market, provider=provider.key.peer_id)
