"""What a session comes to whose hops were lost and replaced: everybody is paid once, exactly."""

import base64
import random

import pytest

from ledger.audit import audit
from ledger.invariants import check
from protocol.identity import PeerId
from protocol.money import with_fee_nanos
from protocol.receipt import CosignedReceipt
from protocol.route import Span
from tests.marketplace.world import Provider, manifest, three_providers


@pytest.fixture
async def pool(world):
    """Three providers and one more for the layers in the middle."""
    await world.register(manifest())
    providers = [*three_providers(), Provider(Span(4, 8))]
    await world.publish(manifest(), *providers[:3])
    return providers


@pytest.fixture
async def buyer(world):
    return await world.buyer(dollars=1)


@pytest.fixture
async def repaired(world, pool, buyer):
    """Hop 1 was lost after a window and is replaced by the fourth provider."""
    paid = await world.lease(buyer, (await world.quote(buyer)).json())
    for lease, provider in zip(paid.leases, pool[:3], strict=True):
        window = paid.receipt(lease, provider, prompt=60, output=0, steps=8, final=False)
        assert (await world.hand_in(provider, window))[0]["status"] == "accepted"
    await world.publish(manifest(), pool[3])
    answer = await world.replace(buyer, paid, deny=[pool[1].peer])
    assert answer.status_code == 200, answer.text
    return paid, paid.granted(answer.json())[1], answer.json()


async def finish(world, pool, paid, new):
    """The last receipts of who is there in the end, in epoch 1; gives what each hop earns."""
    hops = [(paid.leases[0], pool[0], 2), (new, pool[3], 1), (paid.leases[2], pool[2], 2)]
    earned = {}
    for lease, provider, sequence in hops:
        last = paid.receipt(
            lease, provider, prompt=100, output=20, sequence=sequence, epoch=1, steps=3
        )
        assert (await world.hand_in(provider, last))[0]["status"] == "accepted"
        earned[lease.lease_id.hex()] = CosignedReceipt.decode(last).open(lease).amount_nanos
    return earned


async def audited(world):
    """The report of a stranger over the whole public log."""
    market = PeerId.from_text((await world.http.get("/v1/market")).json()["peer_id"])
    note = (await world.http.get("/v1/ledger/checkpoint")).text
    leaves, start = [], 0
    while start is not None:
        page = (await world.http.get(f"/v1/ledger/leaves?start={start}&count=50")).json()
        leaves += [base64.b64decode(leaf) for leaf in page["leaves"]]
        start = page["next"]
    totals = (await world.http.get("/v1/ledger/totals")).json()
    assert totals["sum_nanos"] == 0
    at_checkpoint = totals["checkpoint"]
    at_checkpoint.pop("size")
    report = audit(leaves, note, market, at_checkpoint)
    assert report.ok, report
    assert {str(peer): nanos for peer, nanos in report.credited.items()} == totals["providers"]
    return report


class TestOneLost:
    async def test_an_open_session_shows_both_holds_and_every_hop(
        self, world, pool, buyer, repaired
    ):
        paid, _, told = repaired
        shown = await world.session(buyer, paid)
        assert shown["status"] == "open"
        assert shown["held_nanos"] == paid.answer["amount_nanos"] + told["amount_nanos"]
        assert (shown["charged_nanos"], shown["fee_nanos"]) == (0, 0)
        assert [(hop["epoch"], hop["hop_index"], hop["peer_id"]) for hop in shown["hops"]] == [
            (0, 0, pool[0].peer),
            (0, 1, pool[1].peer),
            (0, 2, pool[2].peer),
            (1, 1, pool[3].peer),
        ]

    async def test_the_dead_is_paid_what_its_receipts_cover(self, world, pool, buyer, repaired):
        paid, new, told = repaired
        earned = await finish(world, pool, paid, new)
        await world.close(buyer, paid)
        await world.close(buyer, paid)
        world.worker.round()
        # the dead hop may still hand in what it has: its hold waits, the replacement's does not
        shown = await world.session(buyer, paid)
        assert (shown["status"], shown["held_nanos"]) == ("closed", paid.answer["amount_nanos"])
        first = earned[new.lease_id.hex()]
        assert shown["charged_nanos"] == with_fee_nanos(first, 500) == first + shown["fee_nanos"]

        world.clock.now = paid.answer["settle_by_s"] + 1
        world.worker.round()
        shown = await world.session(buyer, paid)
        by_lease = {hop["lease_id"]: hop["earned_nanos"] for hop in shown["hops"]}
        dead = paid.leases[1]
        assert by_lease == {**earned, dead.lease_id.hex(): by_lease[dead.lease_id.hex()]}
        assert by_lease[dead.lease_id.hex()] > 0
        others = sum(by_lease.values()) - first
        assert (shown["status"], shown["held_nanos"]) == ("settled", 0)
        assert shown["charged_nanos"] == with_fee_nanos(first, 500) + with_fee_nanos(others, 500)
        assert shown["fee_nanos"] == shown["charged_nanos"] - sum(by_lease.values())
        assert (await world.balance(buyer))["held_nanos"] == 0
        for provider, lease in ((pool[1], dead), (pool[3], new)):
            statement = (await world.node(provider.key, "GET", "/v1/provider")).json()
            assert statement["earned_nanos"] == by_lease[lease.lease_id.hex()]
        assert (await audited(world)).settlements == 2
        with world.market.database.reading() as session:
            assert check(session) == []
        assert told["settle_by_s"] >= paid.answer["settle_by_s"]

    async def test_a_dead_hop_that_comes_back_late_hands_in_what_it_has(
        self, world, pool, buyer, repaired
    ):
        paid, new, _ = repaired
        await finish(world, pool, paid, new)
        await world.close(buyer, paid)
        late = paid.receipt(
            paid.leases[1], pool[1], prompt=64, output=0, sequence=2, steps=9, final=True
        )
        assert (await world.hand_in(pool[1], late))[0]["status"] == "accepted"
        world.worker.round()
        assert (await world.session(buyer, paid))["status"] == "settled"

    async def test_replays_after_the_settlement_pay_nothing(self, world, pool, buyer, repaired):
        paid, new, _ = repaired
        earned = await finish(world, pool, paid, new)
        await world.close(buyer, paid)
        world.clock.now = paid.answer["settle_by_s"] + 1
        world.worker.round()
        before = (await world.http.get("/v1/ledger/totals")).json()["providers"]
        again = paid.receipt(new, pool[3], prompt=100, output=20, epoch=1, steps=3)
        more = paid.receipt(new, pool[3], prompt=100, output=30, epoch=1, steps=4, sequence=2)
        outcomes = await world.hand_in(pool[3], again, more)
        assert [outcome["status"] for outcome in outcomes] == ["duplicate", "rejected"]
        world.worker.round()
        assert (await world.http.get("/v1/ledger/totals")).json()["providers"] == before
        assert earned[new.lease_id.hex()] == before[pool[3].peer]

    async def test_a_receipt_of_an_epoch_that_is_past_says_less(self, world, pool, buyer, repaired):
        paid, new, _ = repaired
        await finish(world, pool, paid, new)
        back = paid.receipt(
            paid.leases[0], pool[0], prompt=100, output=30, sequence=3, epoch=0, steps=30
        )
        (outcome,) = await world.hand_in(pool[0], back)
        assert outcome["status"] == "rejected"


async def test_nobody_claims_and_both_holds_go_back(world, pool, buyer):
    paid = await world.lease(buyer, (await world.quote(buyer)).json())
    assert (await world.replace(buyer, paid)).status_code == 200
    await world.close(buyer, paid)
    world.clock.now = paid.answer["settle_by_s"] + 1
    world.worker.round()
    shown = await world.session(buyer, paid)
    assert (shown["status"], shown["charged_nanos"], shown["held_nanos"]) == ("released", 0, 0)
    assert (await world.balance(buyer))["held_nanos"] == 0


async def test_a_lost_hop_that_comes_back_is_paid_under_both_leases(world, pool, buyer):
    paid = await world.lease(buyer, (await world.quote(buyer)).json())
    new = paid.granted((await world.replace(buyer, paid)).json())[1]
    old = paid.leases[1]
    for lease, epoch in ((old, 0), (new, 1)):
        receipt = paid.receipt(lease, pool[1], prompt=100, output=5, epoch=epoch)
        assert (await world.hand_in(pool[1], receipt))[0]["status"] == "accepted"
    await world.close(buyer, paid)
    world.clock.now = paid.answer["settle_by_s"] + 1
    world.worker.round()
    shown = await world.session(buyer, paid)
    earned = {hop["lease_id"]: hop["earned_nanos"] for hop in shown["hops"]}
    assert earned[old.lease_id.hex()] == earned[new.lease_id.hex()] > 0
    statement = (await world.node(pool[1].key, "GET", "/v1/provider")).json()
    assert statement["earned_nanos"] == 2 * earned[old.lease_id.hex()]


@pytest.mark.parametrize("seed", range(8))
async def test_whoever_is_killed_at_whatever_receipt(world, buyer, seed):
    """Σ paid under a lease is its largest receipt, however often and in what order they come."""
    draw = random.Random(seed)
    await world.register(manifest())
    spares = [Provider(Span(*draw.choice([(0, 4), (4, 8), (8, 12), (0, 12)]))) for _ in range(8)]
    providers = [*three_providers(), *spares]
    await world.publish(manifest(), *providers)
    by_peer = {provider.key.peer_id: provider for provider in providers}
    paid = await world.lease(buyer, (await world.quote(buyer, prompt_tokens=40)).json())
    route = dict(enumerate(paid.leases))
    carried = dict.fromkeys((lease.lease_id for lease in route.values()), (0, 0))
    written: dict[bytes, list[bytes]] = {}
    best: dict[bytes, int] = {}
    rows, gone = 0, []
    for epoch in range(draw.randint(2, 5)):
        if epoch:
            lost = draw.sample(sorted(route), draw.randint(1, len(route)))
            gone += [str(route[index].provider) for index in lost]
            answer = await world.replace(
                buyer, paid, epoch=epoch, lost=lost, rows=rows, remaining_tokens=90 - rows,
                deny=gone,
            )  # fmt: skip
            if answer.status_code == 503:
                break
            new = paid.granted(answer.json())
            route = new if len(lost) == len(route) else route | new
            carried |= {lease.lease_id: (rows, 0) for lease in new.values()}
        for step in range(1, draw.randint(2, 4)):
            before, rows = rows, min(rows + draw.randint(1, 15), 88)
            for lease in route.values():
                prompt, output = carried[lease.lease_id]
                prompt += max(0, min(rows, 40) - min(before, 40))
                output += max(0, rows - max(before, 40))
                carried[lease.lease_id] = (prompt, output)
                kept = written.setdefault(lease.lease_id, [])
                receipt = paid.receipt(
                    lease, by_peer[lease.provider], prompt=prompt, output=output,
                    sequence=len(kept) + 1, final=False, epoch=epoch, steps=step,
                )  # fmt: skip
                kept.append(receipt)
                best[lease.lease_id] = CosignedReceipt.decode(receipt).open(lease).amount_nanos
        await _hand_in_some(world, draw, by_peer, route, written)
    every = {hop["lease_id"]: hop["peer_id"] for hop in (await world.session(buyer, paid))["hops"]}
    await world.close(buyer, paid)
    for lease_id, receipts in written.items():
        provider = by_peer[PeerId.from_text(every[lease_id.hex()])]
        outcomes = await world.hand_in(provider, *draw.sample(receipts, len(receipts)))
        assert all(outcome["status"] != "rejected" for outcome in outcomes)
    world.clock.now += 5000
    world.worker.round()

    shown = await world.session(buyer, paid)
    assert {hop["lease_id"]: hop["earned_nanos"] for hop in shown["hops"]} == {
        lease_id: best.get(bytes.fromhex(lease_id), 0) for lease_id in every
    }
    assert shown["held_nanos"] == (await world.balance(buyer))["held_nanos"] == 0
    assert shown["charged_nanos"] - shown["fee_nanos"] == sum(best.values())
    assert (await audited(world)).credited_nanos == sum(best.values())
    with world.market.database.reading() as session:
        assert check(session) == []


async def _hand_in_some(world, draw, by_peer, route, written) -> None:
    """A few of what there is, new and old, in any order."""
    for lease in route.values():
        receipts = written.get(lease.lease_id, [])
        chosen = draw.sample(receipts, draw.randint(0, len(receipts)))
        if chosen:
            await world.hand_in(by_peer[lease.provider], *chosen, *chosen[:1])
