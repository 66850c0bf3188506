"""The paid request from an empty account to an audited charge."""

import base64

from ledger.audit import audit
from ledger.checkpoint import open_checkpoint
from ledger.invariants import check
from protocol.identity import PeerId
from protocol.money import with_fee_nanos
from tests.marketplace.world import DOLLAR, manifest, three_providers


async def test_a_paid_request_settles_to_the_last_nano(world):
    buyer = await world.buyer(dollars=1)
    model, providers = manifest(), three_providers()
    await world.register(model)
    await world.publish(model, *providers)
    quote = (await world.quote(buyer)).json()
    assert [hop["peer_id"] for hop in quote["hops"]] == [p.peer for p in providers]

    paid = await world.lease(buyer, quote)
    held = await world.balance(buyer)
    assert held["held_nanos"] == quote["amount_nanos_max"]
    assert held["available_nanos"] == DOLLAR - quote["amount_nanos_max"]
    leases = paid.leases
    ring = [world.head.peer_id, *(p.key.peer_id for p in providers), world.head.peer_id]
    for index, lease in enumerate(leases):
        assert (lease.previous, lease.provider, lease.next) == tuple(ring[index : index + 3])
        assert lease.payer_key == paid.payer.peer_id.public_key

    for lease, provider in zip(leases, providers, strict=True):
        early = paid.receipt(lease, provider, output=1, sequence=1, final=False)
        last = paid.receipt(lease, provider, output=5, sequence=2)
        assert [r["status"] for r in await world.hand_in(provider, early)] == ["accepted"]
        assert [r["status"] for r in await world.hand_in(provider, last)] == ["accepted"]
    await world.close(buyer, paid)
    world.worker.round()

    told = await world.session(buyer, paid)
    earned = sum(hop["earned_nanos"] for hop in told["hops"])
    assert told["status"] == "settled"
    assert told["charged_nanos"] == with_fee_nanos(earned, 500)
    assert told["charged_nanos"] == earned + told["fee_nanos"]
    assert told["held_nanos"] == 0
    assert all(hop["receipt"] and hop["leaf_index"] is not None for hop in told["hops"])
    assert await world.balance(buyer) == {
        "available_nanos": DOLLAR - told["charged_nanos"],
        "held_nanos": 0,
        "posted_nanos": DOLLAR - told["charged_nanos"],
    }

    totals = (await world.http.get("/v1/ledger/totals")).json()
    assert totals["sum_nanos"] == 0
    assert sum(totals["providers"].values()) == earned
    assert totals["accounts"]["fee"]["credits_posted"] == told["fee_nanos"]
    for hop, provider in zip(told["hops"], providers, strict=True):
        statement = (await world.node(provider.key, "GET", "/v1/provider")).json()
        assert statement["earned_nanos"] == hop["earned_nanos"]
        assert statement["sessions"] == [
            {
                "lease_id": hop["lease_id"],
                "span": hop["span"],
                "amount_nanos": hop["earned_nanos"],
                "work": hop["work"],
                "settled": True,
            }
        ]
    with world.market.database.reading() as session:
        assert check(session) == []


async def test_a_stranger_can_audit_the_public_log(world):
    buyer = await world.buyer(dollars=1)
    model, providers = manifest(), three_providers()
    await world.register(model)
    await world.publish(model, *providers)
    for _ in range(3):
        paid = await world.lease(buyer, (await world.quote(buyer)).json())
        for lease, provider in zip(paid.leases, providers, strict=True):
            await world.hand_in(provider, paid.receipt(lease, provider))
        await world.close(buyer, paid)
        world.worker.round()

    market = PeerId.from_text((await world.http.get("/v1/market")).json()["peer_id"])
    note = (await world.http.get("/v1/ledger/checkpoint")).text
    signed = open_checkpoint(note, market, origin="piecework/local")
    leaves, start = [], 0
    while start is not None:
        page = (await world.http.get(f"/v1/ledger/leaves?start={start}&count=5")).json()
        leaves += [base64.b64decode(leaf) for leaf in page["leaves"]]
        start = page["next"]
    totals = (await world.http.get("/v1/ledger/totals")).json()
    assert len(leaves) == signed.size
    at_checkpoint = totals["checkpoint"]
    assert at_checkpoint.pop("size") == signed.size
    report = audit(leaves, note, market, at_checkpoint)
    assert report.ok, report
    assert report.settlements == 3
    assert {str(peer): nanos for peer, nanos in report.credited.items()} == totals["providers"]


async def test_a_proof_of_the_api_verifies(world):
    from ledger.tree import leaf_hash, verify_consistency, verify_inclusion

    buyer = await world.buyer(dollars=1)
    model, providers = manifest(), three_providers()
    await world.register(model)
    await world.publish(model, *providers)
    paid = await world.lease(buyer, (await world.quote(buyer)).json())
    first = await world.hand_in(providers[0], paid.receipt(paid.leases[0], providers[0]))
    world.worker.round()
    market = world.market.key.peer_id
    earlier = open_checkpoint((await world.http.get("/v1/ledger/checkpoint")).text, market)
    await world.hand_in(providers[1], paid.receipt(paid.leases[1], providers[1]))
    await world.hand_in(providers[2], paid.receipt(paid.leases[2], providers[2]))
    world.worker.round()
    later = open_checkpoint((await world.http.get("/v1/ledger/checkpoint")).text, market)

    index = first[0]["leaf_index"]
    proof = (await world.http.get(f"/v1/ledger/proof?index={index}&size={later.size}")).json()
    page = (await world.http.get(f"/v1/ledger/leaves?start={index}&count=1")).json()
    leaf = leaf_hash(base64.b64decode(page["leaves"][0]))
    hashes = [bytes.fromhex(text) for text in proof["hashes"]]
    verify_inclusion(leaf, index, later.size, hashes, later.root)
    sizes = f"first={earlier.size}&second={later.size}"
    grown = (await world.http.get(f"/v1/ledger/consistency?{sizes}")).json()
    hashes = [bytes.fromhex(text) for text in grown["hashes"]]
    verify_consistency(earlier.size, earlier.root, later.size, later.root, hashes)
