"""Replacing lost hops: who comes, what is leased and held for them, and what is refused."""

import asyncio
import secrets

import pytest
from sqlalchemy import update

from ledger.invariants import check
from marketplace.leases.models import SessionHoldRow
from marketplace.leases.replacements import REPLACEMENTS_MAX
from protocol.money import Rates, Work, with_fee_nanos
from protocol.route import Span
from tests.marketplace.world import Provider, error_of, manifest, three_providers

DEAR = Rates(4_000_000, 12_000_000, 1_000)


@pytest.fixture
async def pool(world):
    """Three providers of a registered model."""
    await world.register(manifest())
    providers = three_providers()
    await world.publish(manifest(), *providers)
    return providers


@pytest.fixture
async def buyer(world):
    return await world.buyer(dollars=1)


@pytest.fixture
async def paid(world, pool, buyer):
    """A session over the three, for 100 rows of prompt and 50 more."""
    return await world.lease(buyer, (await world.quote(buyer)).json())


async def spare(world, start=4, end=8, **more) -> Provider:
    """One provider more."""
    provider = Provider(Span(start, end), **more)
    await world.publish(manifest(), provider)
    return provider


def peers(answer) -> list[str]:
    return [hop["peer_id"] for hop in answer.json()["hops"]]


async def held(world, buyer) -> int:
    return (await world.balance(buyer))["held_nanos"]


class TestOneHop:
    async def test_another_takes_its_place_and_nobody_else_moves(self, world, pool, buyer, paid):
        other = await spare(world)
        answer = await world.replace(buyer, paid, deny=[pool[1].peer])
        assert answer.status_code == 200, answer.text
        assert peers(answer) == [pool[0].peer, other.peer, pool[2].peer]
        told = answer.json()
        assert told["epoch"] == 1
        assert [hop["span"] for hop in told["hops"]] == [
            {"start": 0, "end": 4},
            {"start": 4, "end": 8},
            {"start": 8, "end": 12},
        ]
        ((index, lease),) = paid.granted(told).items()
        first = paid.leases[1]
        assert index == lease.hop_index == 1
        assert (lease.hop_count, lease.session_id) == (3, paid.session_id)
        assert (lease.payer_key, lease.head) == (first.payer_key, first.head)
        assert lease.provider == other.key.peer_id
        assert (lease.previous, lease.next) == (pool[0].key.peer_id, pool[2].key.peer_id)
        assert lease.hold_id.hex() == told["hold_id"] != paid.answer["hold_id"]
        assert (lease.tokens_max, lease.manifest_hash) == (150, first.manifest_hash)
        assert (lease.window_tokens, lease.credit_windows) == (64, 8)

    async def test_it_is_bound_to_the_replay_and_what_may_still_come(
        self, world, pool, buyer, paid
    ):
        await spare(world)
        answer = (await world.replace(buyer, paid, deny=[pool[1].peer])).json()
        (lease,) = paid.granted(answer).values()
        row = lease.wire_dtype.row_bytes(lease.hidden_size)
        assert lease.work_max == Work(120 * 4, 30 * 4, 150 * row, 150 * row)
        assert lease.amount_nanos_max == lease.amount_for(lease.work_max)
        assert answer["amount_nanos"] == with_fee_nanos(lease.amount_nanos_max, 500)

    async def test_what_of_the_prompt_has_yet_to_come_is_prefill_too(
        self, world, pool, buyer, paid
    ):
        """A hop that dies early leaves its place with most of the prompt still to be run."""
        await spare(world)
        answer = await world.replace(buyer, paid, rows=7, remaining_tokens=143, deny=[pool[1].peer])
        (lease,) = paid.granted(answer.json()).values()
        assert lease.work_max.prefill_token_layers == 100 * 4
        assert lease.work_max.decode_token_layers == 50 * 4

    async def test_the_cheapest_that_holds_the_whole_span(self, world, pool, buyer, paid):
        await spare(world, rates=DEAR)
        await spare(world, 5, 8, rates=Rates(0, 0, 0))
        wide = await spare(world, 2, 10, rates=Rates(1, 1, 1))
        answer = await world.replace(buyer, paid, deny=[pool[1].peer])
        assert peers(answer)[1] == wide.peer
        assert answer.json()["hops"][1]["span"] == {"start": 4, "end": 8}

    @pytest.mark.parametrize(
        "changes", [{"kv_tokens": 149}, {"manifest_hash": manifest("other").manifest_hash}]
    )
    async def test_who_has_no_room_or_another_model_is_passed_over(
        self, world, pool, buyer, paid, changes
    ):
        await world.register(manifest("other"))
        await spare(world, changes=changes)
        answer = await world.replace(buyer, paid, deny=[pool[1].peer])
        assert error_of(answer) == (503, "no_capacity")
        assert answer.json()["error"]["details"] == {"missing_spans": ["4:8"]}

    async def test_who_stays_does_not_take_a_second_place(self, world, pool, buyer, paid):
        pool[0].span = Span(0, 12)
        await world.publish(manifest(), pool[0])
        answer = await world.replace(buyer, paid, deny=[pool[1].peer])
        assert error_of(answer) == (503, "no_capacity")

    async def test_only_whom_the_buyer_allows(self, world, pool, buyer, paid):
        await spare(world, rates=Rates(0, 0, 0))
        trusted = await spare(world)
        answer = await world.replace(buyer, paid, deny=[pool[1].peer], allow=[trusted.peer])
        assert peers(answer)[1] == trusted.peer
        denied = await world.replace(buyer, paid, epoch=2, allow=[pool[0].peer])
        assert error_of(denied) == (503, "no_capacity")

    async def test_a_lost_hop_that_is_not_denied_may_come_back(self, world, pool, buyer, paid):
        answer = await world.replace(buyer, paid)
        assert peers(answer) == [provider.peer for provider in pool]
        (lease,) = paid.granted(answer.json()).values()
        assert lease.lease_id != paid.leases[1].lease_id

    async def test_a_price_the_buyer_will_not_pay(self, world, pool, buyer, paid):
        before = await held(world, buyer)
        answer = await world.replace(buyer, paid, amount_nanos_max=1)
        assert error_of(answer) == (402, "max_price")
        assert await held(world, buyer) == before


class TestSeveralHops:
    async def test_two_beside_one_another_name_one_another(self, world, pool, buyer, paid):
        first, second = await spare(world, 0, 4), await spare(world, 4, 8)
        gone = [pool[0].peer, pool[1].peer]
        answer = await world.replace(buyer, paid, lost=[1, 0], deny=gone)
        assert peers(answer) == [first.peer, second.peer, pool[2].peer]
        leases = paid.granted(answer.json())
        assert set(leases) == {0, 1}
        assert leases[0].previous == world.head.peer_id
        assert (leases[0].next, leases[1].previous) == (second.key.peer_id, first.key.peer_id)
        assert leases[1].next == pool[2].key.peer_id
        earned = sum(lease.amount_nanos_max for lease in leases.values())
        assert answer.json()["amount_nanos"] == with_fee_nanos(earned, 500)

    async def test_one_provider_is_not_two_hops(self, world, pool, buyer, paid):
        """Whoever could take both takes the one that nobody else can."""
        wide = await spare(world, 0, 8, rates=Rates(0, 0, 0))
        narrow = await spare(world, 0, 4, rates=DEAR)
        gone = [pool[0].peer, pool[1].peer]
        answer = await world.replace(buyer, paid, lost=[0, 1], deny=gone)
        assert peers(answer)[:2] == [narrow.peer, wide.peer]

    async def test_nobody_for_one_of_them_is_nobody_at_all(self, world, pool, buyer, paid):
        await spare(world, 0, 4)
        before = await held(world, buyer)
        gone = [pool[0].peer, pool[1].peer]
        answer = await world.replace(buyer, paid, lost=[0, 1], deny=gone)
        assert error_of(answer) == (503, "no_capacity")
        assert answer.json()["error"]["details"] == {"missing_spans": ["4:8"]}
        assert answer.headers["retry-after"]
        assert await held(world, buyer) == before


class TestAWhollyNewRoute:
    async def test_of_another_number_of_hops(self, world, pool, buyer, paid):
        left, right = await spare(world, 0, 7), await spare(world, 5, 12)
        gone = [provider.peer for provider in pool]
        answer = await world.replace(buyer, paid, lost=[0, 1, 2], deny=gone)
        assert peers(answer) == [left.peer, right.peer]
        leases = paid.granted(answer.json())
        assert [(lease.hop_index, lease.hop_count) for lease in leases.values()] == [(0, 2), (1, 2)]
        assert {lease.session_id for lease in leases.values()} == {paid.session_id}
        assert {lease.payer_key for lease in leases.values()} == {paid.leases[0].payer_key}
        assert leases[0].next == right.key.peer_id
        assert sum(len(lease.span) for lease in leases.values()) == 12
        assert {lease.tokens_max for lease in leases.values()} == {150}

    async def test_who_is_still_there_may_serve_other_layers(self, world, pool, buyer, paid):
        """Nobody holds what the dead one did, but the others have room to move."""
        pool[0].span, pool[2].span = Span(0, 7), Span(6, 12)
        await world.publish(manifest(), pool[0], pool[2])
        patched = await world.replace(buyer, paid, deny=[pool[1].peer])
        assert error_of(patched) == (503, "no_capacity")
        answer = await world.replace(buyer, paid, lost=[0, 1, 2], deny=[pool[1].peer])
        assert peers(answer) == [pool[0].peer, pool[2].peer]

    async def test_where_there_is_none_the_missing_layers_are_named(self, world, pool, buyer, paid):
        answer = await world.replace(buyer, paid, lost=[0, 1, 2], deny=[pool[1].peer])
        assert error_of(answer) == (503, "no_capacity")
        assert answer.json()["error"]["details"] == {"missing_spans": ["4:8"]}

    async def test_what_follows_is_counted_on_the_new_route(self, world, pool, buyer, paid):
        await spare(world, 0, 12)
        gone = [provider.peer for provider in pool]
        await world.replace(buyer, paid, lost=[0, 1, 2], deny=gone)
        beyond = await world.replace(buyer, paid, epoch=2, lost=[1])
        assert error_of(beyond) == (400, "malformed")
        again = await world.replace(buyer, paid, epoch=2, lost=[0])
        assert len(peers(again)) == 1


class TestAgain:
    async def test_the_same_request_gets_the_same_answer_and_holds_nothing_more(
        self, world, pool, buyer, paid
    ):
        await spare(world)
        asked = {"deny": [pool[1].peer, pool[0].peer], "lost": [1]}
        first = await world.replace(buyer, paid, **asked)
        before = await held(world, buyer)
        await world.node(pool[2].key, "DELETE", "/v1/offers")
        await spare(world, rates=Rates(0, 0, 0))
        asked["deny"].reverse()
        again = await world.replace(buyer, paid, **asked)
        assert again.json() == first.json()
        await world.close(buyer, paid)
        assert (await world.replace(buyer, paid, **asked)).json() == first.json()
        assert await held(world, buyer) == before

    @pytest.mark.parametrize(
        "change", [{"lost": [0]}, {"rows": 119}, {"remaining_tokens": 29}, {"deny": []}]
    )
    async def test_other_content_under_the_same_epoch_is_a_conflict(
        self, world, pool, buyer, paid, change
    ):
        await spare(world)
        asked = {"deny": [pool[1].peer]}
        assert (await world.replace(buyer, paid, **asked)).status_code == 200
        before = await held(world, buyer)
        assert error_of(await world.replace(buyer, paid, **asked | change)) == (409, "conflict")
        assert await held(world, buyer) == before

    async def test_epochs_only_grow_but_may_leave_some_out(self, world, pool, buyer, paid):
        assert (await world.replace(buyer, paid, epoch=5)).status_code == 200
        assert error_of(await world.replace(buyer, paid, epoch=4)) == (409, "conflict")
        assert (await world.replace(buyer, paid, epoch=6)).status_code == 200

    async def test_two_in_a_row_go_on_from_one_another(self, world, pool, buyer, paid):
        second = await spare(world)
        one = await world.replace(buyer, paid, deny=[pool[1].peer])
        third = await spare(world, 8, 12)
        gone = [pool[1].peer, pool[2].peer]
        two = await world.replace(
            buyer, paid, epoch=2, lost=[2], deny=gone, rows=130, remaining_tokens=20
        )
        assert peers(two) == [pool[0].peer, second.peer, third.peer]
        (lease,) = paid.granted(two.json()).values()
        assert lease.previous == second.key.peer_id
        amounts = [paid.answer["amount_nanos"]]
        amounts += [answer.json()["amount_nanos"] for answer in (one, two)]
        assert await held(world, buyer) == sum(amounts)

    async def test_many_at_once_are_held_once(self, world, pool, buyer, paid):
        await spare(world)
        before = await held(world, buyer)
        answers = await asyncio.gather(
            *(world.replace(buyer, paid, deny=[pool[1].peer]) for _ in range(8))
        )
        told = [answer.json() for answer in answers if answer.status_code == 200]
        assert told
        assert all(answer == told[0] for answer in told)
        assert await held(world, buyer) - before == told[0]["amount_nanos"]


class TestMoney:
    async def test_a_buyer_who_cannot_is_402_and_nothing_is_held(self, world):
        await world.register(manifest())
        dear = [Provider(Span(n, n + 4), rates=Rates(10**11, 10**11, 0)) for n in (0, 4, 8)]
        await world.publish(manifest(), *dear)
        price = (await world.quote(await world.buyer())).json()["amount_nanos_max"]
        poor = await world.buyer(nanos=price + 1)
        paid = await world.lease(poor, (await world.quote(poor)).json())
        answer = await world.replace(poor, paid)
        assert error_of(answer) == (402, "insufficient_funds")
        details = answer.json()["error"]["details"]
        assert details["available_nanos"] == 1
        assert await held(world, poor) == price
        assert [hop["epoch"] for hop in (await world.session(poor, paid))["hops"]] == [0] * 3
        # nothing was used up by the refusal
        await world.top_up(poor, details["needed_nanos"])
        assert (await world.replace(poor, paid)).status_code == 200
        with world.market.database.reading() as session:
            assert check(session) == []

    async def test_a_free_hop_can_come_too(self, world, pool, buyer, paid):
        await spare(world, rates=Rates(0, 0, 0))
        answer = await world.replace(buyer, paid, deny=[pool[1].peer])
        assert answer.json()["amount_nanos"] == 1

    async def test_the_number_of_rounds_is_bounded(self, world, pool, buyer, paid):
        for epoch in range(1, REPLACEMENTS_MAX + 1):
            assert (await world.replace(buyer, paid, epoch=epoch)).status_code == 200
        before = await held(world, buyer)
        answer = await world.replace(buyer, paid, epoch=REPLACEMENTS_MAX + 1)
        assert error_of(answer) == (409, "conflict")
        assert await held(world, buyer) == before


class TestRefused:
    async def test_after_close(self, world, pool, buyer, paid):
        await world.close(buyer, paid)
        assert error_of(await world.replace(buyer, paid)) == (409, "conflict")

    async def test_after_the_time_for_receipts(self, world, pool, buyer, paid):
        world.clock.now = paid.answer["settle_by_s"] + 1
        await world.publish(manifest(), *pool)
        assert error_of(await world.replace(buyer, paid)) == (409, "conflict")

    async def test_another_accounts_session(self, world, pool, buyer, paid):
        other = await world.buyer(dollars=1)
        assert error_of(await world.replace(other, paid)) == (404, "session_unknown")
        paid.session_id = secrets.token_bytes(16)
        assert error_of(await world.replace(buyer, paid)) == (404, "session_unknown")

    async def test_nonsense(self, world, pool, buyer, paid):
        before = await held(world, buyer)
        for change in (
            {"epoch": 0},
            {"epoch": 2**32},
            {"lost": []},
            {"lost": [1, 1]},
            {"lost": [3]},
            {"lost": [64]},
            {"lost": [-1]},
            {"lost": "1"},
            {"rows": -1},
            {"rows": 2**31, "remaining_tokens": 2**31},
            {"remaining_tokens": 0},
            {"remaining_tokens": 31},
            {"deny": ["me"]},
            {"allow": []},
            {"amount_nanos_max": 0},
            {"more": 1},
        ):
            answer = await world.replace(buyer, paid, **change)
            assert error_of(answer) == (400, "malformed"), change
        assert await held(world, buyer) == before

    async def test_a_key_that_may_not_buy(self, world, pool, buyer, paid):
        path = f"/v1/sessions/{paid.session_id.hex()}/replacements"
        body = {"epoch": 1, "lost": [1], "rows": 1, "remaining_tokens": 1}
        assert error_of(await world.http.post(path, json=body))[0] == 401

    async def test_a_session_from_before_replacements(self, world, pool, buyer, paid):
        """Its route was not kept, so nothing can be put in its place."""
        with world.market.database.transaction() as session:
            session.execute(update(SessionHoldRow).values(terms=None))
        assert error_of(await world.replace(buyer, paid)) == (409, "conflict")


async def test_a_provider_sees_the_lease_it_came_with(world, pool, buyer, paid):
    other = await spare(world)
    answer = await world.replace(buyer, paid, deny=[pool[1].peer])
    statement = (await world.node(other.key, "GET", "/v1/provider")).json()
    ((_, lease),) = paid.granted(answer.json()).items()
    assert [shown["lease_id"] for shown in statement["sessions"]] == [lease.lease_id.hex()]
