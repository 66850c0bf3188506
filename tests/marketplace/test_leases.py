"""Leases and sessions: money is held before work, once, and never more than there is."""

import asyncio
import secrets

import pytest

from ledger.invariants import check
from protocol.identity import KeyPair
from protocol.money import Rates
from protocol.route import Span
from tests.marketplace.world import Provider, error_of, manifest, three_providers


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


async def post(world, buyer, request):
    return await world.http.post("/v1/leases", json=request, headers=buyer.headers)


class TestAccept:
    async def test_leases_say_what_was_quoted(self, world, pool, buyer):
        quote = (await world.quote(buyer, wire_dtype="fp32")).json()
        paid = await world.lease(buyer, quote)
        assert paid.answer["amount_nanos"] == quote["amount_nanos_max"]
        assert paid.answer["settle_by_s"] > world.clock.now
        for index, (lease, hop) in enumerate(zip(paid.leases, quote["hops"], strict=True)):
            assert lease.hold_id.hex() == paid.answer["hold_id"]
            assert lease.session_id == paid.session_id
            assert (lease.hop_index, lease.hop_count) == (index, 3)
            assert str(lease.provider) == hop["peer_id"]
            assert lease.wire_dtype == "fp32"
            assert lease.tokens_max == 150
            assert (lease.window_tokens, lease.credit_windows) == (64, 8)
            assert lease.issued_at_s == world.clock.now < lease.expires_at_s < lease.settle_by_s
            assert lease.amount_for(lease.work_max) == lease.amount_nanos_max

    async def test_the_same_again_is_the_same_answer(self, world, pool, buyer):
        paid = await world.lease(buyer, (await world.quote(buyer)).json())
        held = await world.balance(buyer)
        world.pass_time(3600)
        again = await post(world, buyer, paid.request)
        assert again.json() == paid.answer
        assert await world.balance(buyer) == held

    async def test_a_quote_serves_one_session(self, world, pool, buyer):
        quote = (await world.quote(buyer)).json()
        await world.lease(buyer, quote)
        held = await world.balance(buyer)
        answer = await post(world, buyer, world.session_for(quote).request)
        assert error_of(answer) == (409, "conflict")
        assert await world.balance(buyer) == held

    async def test_a_session_id_serves_one_quote(self, world, pool, buyer):
        paid = await world.lease(buyer, (await world.quote(buyer)).json())
        other = (await world.quote(buyer)).json()
        for change in (
            {"quote_id": other["quote_id"]},
            {"payer_key": "11" * 32},
            {"head": str(KeyPair.generate().peer_id)},
        ):
            answer = await post(world, buyer, paid.request | change)
            assert error_of(answer) == (409, "conflict")

    async def test_an_expired_quote(self, world, pool, buyer):
        quote = (await world.quote(buyer)).json()
        world.pass_time(60)
        answer = await post(world, buyer, world.session_for(quote).request)
        assert error_of(answer) == (409, "quote_expired")

    @pytest.mark.parametrize("change", ["withdrawn", "moved", "dearer"])
    async def test_an_offer_that_changed(self, world, pool, buyer, change):
        quote = (await world.quote(buyer)).json()
        if change == "withdrawn":
            await world.node(pool[1].key, "DELETE", "/v1/offers")
        else:
            pool[1].span = Span(0, 4) if change == "moved" else pool[1].span
            pool[1].rates = Rates(9, 9, 9) if change == "dearer" else pool[1].rates
            await world.publish(manifest(), pool[1])
        session = world.session_for(quote)
        answer = await post(world, buyer, session.request)
        assert error_of(answer) == (409, "quote_expired")
        assert (await world.balance(buyer))["held_nanos"] == 0

    async def test_a_renewed_offer_is_the_same_offer(self, world, pool, buyer):
        quote = (await world.quote(buyer)).json()
        await world.publish(manifest(), *pool)
        await world.lease(buyer, quote)

    async def test_another_accounts_quote_is_unknown(self, world, pool, buyer):
        quote = (await world.quote(buyer)).json()
        other = await world.buyer(dollars=1)
        answer = await post(world, other, world.session_for(quote).request)
        assert error_of(answer) == (404, "quote_unknown")
        unknown = world.session_for(quote).request | {"quote_id": secrets.token_hex(16)}
        assert error_of(await post(world, buyer, unknown)) == (404, "quote_unknown")

    async def test_a_free_route_can_be_leased(self, world, buyer):
        await world.register(manifest("free"))
        provider = Provider(Span(0, 12), rates=Rates(0, 0, 0))
        await world.publish(manifest("free"), provider)
        paid = await world.lease(buyer, (await world.quote(buyer, model="free")).json())
        await world.hand_in(provider, paid.receipt(paid.leases[0], provider))
        await world.close(buyer, paid)
        world.worker.round()
        told = await world.session(buyer, paid)
        assert (told["charged_nanos"], told["held_nanos"]) == (0, 0)

    @pytest.mark.parametrize(
        "change",
        [{"session_id": "xx"}, {"payer_key": "00"}, {"head": "me"}, {"quote_id": None}, {"a": 1}],
    )
    async def test_nonsense_is_400(self, world, pool, buyer, change):
        request = world.session_for((await world.quote(buyer)).json()).request
        assert error_of(await post(world, buyer, request | change)) == (400, "malformed")


class TestBalance:
    async def test_an_empty_balance_is_402_and_nothing_is_held(self, world, pool):
        poor = await world.buyer()
        quote = (await world.quote(poor)).json()
        session = world.session_for(quote)
        answer = await post(world, poor, session.request)
        assert error_of(answer) == (402, "insufficient_funds")
        details = answer.json()["error"]["details"]
        assert details == {"needed_nanos": quote["amount_nanos_max"], "available_nanos": 0}
        assert (await world.balance(poor))["held_nanos"] == 0

        # nothing was used up by the refusal: after a top-up the very same request is served
        await world.top_up(poor, 10_000_000)
        assert (await post(world, poor, session.request)).status_code == 200

    async def test_parallel_requests_never_pass_the_balance(self, world):
        await world.register(manifest())
        await world.publish(manifest(), Provider(Span(0, 12), rates=Rates(10**10, 10**10, 0)))
        price = (await world.quote(await world.buyer())).json()["amount_nanos_max"]
        racer = await world.buyer(nanos=price * 7 + price - 1)
        quotes = [(await world.quote(racer)).json() for _ in range(40)]
        requests = [world.session_for(quote).request for quote in quotes]
        answers = await asyncio.gather(*(post(world, racer, request) for request in requests))
        codes = [answer.status_code for answer in answers]
        assert codes.count(200) == 7
        assert codes.count(402) == 33
        assert await world.balance(racer) == {
            "available_nanos": price - 1,
            "held_nanos": 7 * price,
            "posted_nanos": 8 * price - 1,
        }
        with world.market.database.reading() as session:
            assert check(session) == []

    async def test_one_quote_taken_many_times_at_once_is_held_once(self, world, pool, buyer):
        quote = (await world.quote(buyer)).json()
        requests = [world.session_for(quote).request for _ in range(10)]
        answers = await asyncio.gather(*(post(world, buyer, request) for request in requests))
        assert sorted(answer.status_code for answer in answers) == [200] + [409] * 9
        assert (await world.balance(buyer))["held_nanos"] == quote["amount_nanos_max"]


class TestSession:
    async def test_an_open_session_shows_its_hold(self, world, pool, buyer):
        paid = await world.lease(buyer, (await world.quote(buyer)).json())
        told = await world.session(buyer, paid)
        assert told["status"] == "open"
        assert told["held_nanos"] == paid.answer["amount_nanos"]
        assert [hop["receipt"] for hop in told["hops"]] == [None] * 3

    async def test_it_is_the_owners_alone(self, world, pool, buyer):
        paid = await world.lease(buyer, (await world.quote(buyer)).json())
        other = await world.buyer()
        path = f"/v1/sessions/{paid.session_id.hex()}"
        shown = await world.http.get(path, headers=other.headers)
        closed = await world.http.post(f"{path}/close", headers=other.headers)
        assert error_of(shown) == error_of(closed) == (404, "session_unknown")
        assert (await world.session(buyer, paid))["status"] == "open"

    async def test_a_closed_session_is_held_until_its_hops_could_have_claimed(
        self, world, pool, buyer
    ):
        """Or a buyer could close at once and take the work without paying."""
        paid = await world.lease(buyer, (await world.quote(buyer)).json())
        await world.close(buyer, paid)
        await world.close(buyer, paid)
        world.pass_time(300)
        world.worker.round()
        assert (await world.session(buyer, paid))["status"] == "closed"
        (late,) = await world.hand_in(pool[0], paid.receipt(paid.leases[0], pool[0]))
        assert late["status"] == "accepted"
        world.clock.now = paid.answer["settle_by_s"] + 1
        world.worker.round()
        told = await world.session(buyer, paid)
        assert (told["status"], told["held_nanos"]) == ("settled", 0)
        assert told["hops"][0]["earned_nanos"] > 0
        with world.market.database.reading() as session:
            assert check(session) == []

    async def test_what_nobody_claims_goes_back_to_the_buyer(self, world, pool, buyer):
        paid = await world.lease(buyer, (await world.quote(buyer)).json())
        await world.close(buyer, paid)
        world.clock.now = paid.answer["settle_by_s"] + 1
        world.worker.round()
        told = await world.session(buyer, paid)
        assert (told["status"], told["held_nanos"], told["charged_nanos"]) == ("released", 0, 0)
        assert (await world.balance(buyer))["held_nanos"] == 0

    async def test_a_closed_session_with_a_receipt_waits_for_the_others(self, world, pool, buyer):
        paid = await world.lease(buyer, (await world.quote(buyer)).json())
        await world.hand_in(pool[0], paid.receipt(paid.leases[0], pool[0]))
        await world.close(buyer, paid)
        world.pass_time(60)
        world.worker.round()
        assert (await world.session(buyer, paid))["status"] == "closed"
        for index in (1, 2):
            await world.hand_in(pool[index], paid.receipt(paid.leases[index], pool[index]))
        world.worker.round()
        assert (await world.session(buyer, paid))["status"] == "settled"

    async def test_a_session_nobody_closes_ends_with_its_time(self, world, pool, buyer):
        paid = await world.lease(buyer, (await world.quote(buyer)).json())
        await world.hand_in(pool[0], paid.receipt(paid.leases[0], pool[0], final=False))
        world.clock.now = paid.answer["settle_by_s"] + 1
        world.worker.round()
        told = await world.session(buyer, paid)
        assert told["status"] == "settled"
        assert told["charged_nanos"] > told["hops"][0]["earned_nanos"] > 0
