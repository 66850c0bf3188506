"""Answers that are paid for as they come: holds that grow, and money in flight."""

import base64

from marketplace.pricing import WorkPlan, price_of
from protocol.envelope import open_envelope
from protocol.lease import Lease
from protocol.tensor import WireDtype
from tests.marketplace.world import RATES, error_of, three_providers

FEE = 500


def price(world, prompt, output):
    plan = WorkPlan(12, 64, prompt, output, WireDtype.BF16)
    return price_of([(p.span, RATES) for p in three_providers()], plan, FEE)


async def begin(world, buyer, **asked):
    body = {"prompt_tokens": 100, "max_tokens": 400, "funded_tokens": 50, **asked}
    quote = await world.quote(buyer, **body)
    assert quote.status_code == 200, quote.text
    return await world.lease(buyer, quote.json())


async def try_lease(world, buyer, **asked):
    body = {"prompt_tokens": 100, "max_tokens": 50, **asked}
    quote = (await world.quote(buyer, **body)).json()
    request = world.session_for(quote).request
    return await world.http.post("/v1/leases", json=request, headers=buyer.headers)


async def extend(world, buyer, session, funded_tokens, **more):
    path = f"/v1/sessions/{session.session_id.hex()}/extensions"
    body = {"funded_tokens": funded_tokens, **more}
    return await world.http.post(path, json=body, headers=buyer.headers)


async def finish(world, buyer, session, providers, *, prompt=100, output=50):
    for lease, provider in zip(session.leases, providers, strict=True):
        receipt = session.receipt(lease, provider, prompt=prompt, output=output)
        (result,) = await world.hand_in(provider, receipt)
        assert result["status"] == "accepted", result
    await world.close(buyer, session)


def leases_of(world, answer) -> list[Lease]:
    market = world.market.key.peer_id
    data = [base64.b64decode(item["lease"]) for item in answer.json()["leases"]]
    return [open_envelope(Lease, envelope, signer=market) for envelope in data]


class TestExtensions:
    async def test_an_instalment_holds_its_own_price_and_reserves_the_whole(self, world, providers):
        buyer = await world.buyer(dollars=1)
        session = await begin(world, buyer)
        assert session.answer["amount_nanos"] == price(world, 100, 50)
        assert {lease.tokens_max for lease in session.leases} == {500}
        assert session.leases[0].work_max.decode_token_layers == 50 * 4

    async def test_an_extension_holds_more_under_the_same_leases(self, world, providers):
        buyer = await world.buyer(dollars=1)
        session = await begin(world, buyer)
        answer = await extend(world, buyer, session, 300)
        assert answer.status_code == 200, answer.text
        for grown, earlier in zip(leases_of(world, answer), session.leases, strict=True):
            grown.check_grows_from(earlier)
            assert grown.work_max.decode_token_layers == 300 * 4
        assert (await world.balance(buyer))["held_nanos"] == price(world, 100, 300)

    async def test_the_same_again_holds_nothing_more(self, world, providers):
        buyer = await world.buyer(dollars=1)
        session = await begin(world, buyer)
        first = await extend(world, buyer, session, 300)
        again = await extend(world, buyer, session, 300)
        less = await extend(world, buyer, session, 100)
        assert first.json()["leases"] == again.json()["leases"] == less.json()["leases"]
        assert (await world.balance(buyer))["held_nanos"] == price(world, 100, 300)

    async def test_the_whole_extended_answer_is_charged(self, world, providers):
        buyer = await world.buyer(dollars=1)
        session = await begin(world, buyer)
        await extend(world, buyer, session, 300)
        await finish(world, buyer, session, providers, output=300)
        world.worker.round()
        balance = await world.balance(buyer)
        assert balance["held_nanos"] == 0
        assert balance["posted_nanos"] == 10**9 - price(world, 100, 300)

    async def test_receipts_beyond_what_is_funded_are_refused(self, world, providers):
        buyer = await world.buyer(dollars=1)
        session = await begin(world, buyer)
        receipt = session.receipt(session.leases[0], providers[0], prompt=100, output=51)
        (result,) = await world.hand_in(providers[0], receipt)
        assert result["status"] == "rejected"

    async def test_no_more_than_the_session_was_opened_for(self, world, providers):
        buyer = await world.buyer(dollars=1)
        session = await begin(world, buyer)
        assert error_of(await extend(world, buyer, session, 401)) == (400, "malformed")
        other = await world.buyer(dollars=1)
        assert error_of(await extend(world, other, session, 60)) == (404, "session_unknown")
        await world.close(buyer, session)
        assert error_of(await extend(world, buyer, session, 60)) == (409, "conflict")

    async def test_a_replaced_hop_is_brought_to_the_same_mark(self, world, providers):
        buyer = await world.buyer(dollars=1)
        session = await begin(world, buyer)
        answer = await world.replace(
            buyer, session, rows=120, remaining_tokens=380, funded_tokens=30
        )
        assert answer.status_code == 200, answer.text
        extended = await extend(world, buyer, session, 200)
        assert extended.json()["epoch"] == 1
        leases = leases_of(world, extended)
        replaced = session.granted(answer.json())[1]
        leases[1].check_grows_from(replaced)
        assert leases[0].work_max.decode_token_layers == 200 * 4
        # 120 rows are replayed to it as prefill; the answer's first 20 tokens are among them
        assert leases[1].work_max.prefill_token_layers == 120 * 4
        assert leases[1].work_max.decode_token_layers == 180 * 4


class TestMoneyInFlight:
    async def test_what_others_hold_is_told_from_what_is_not_there(self, world, providers):
        buyer = await world.buyer(nanos=15 * 10**6)
        big = 10**7 // price(world, 0, 1)
        first = await try_lease(world, buyer, max_tokens=big)
        assert first.status_code == 200, first.text
        waiting = await try_lease(world, buyer, max_tokens=big)
        assert error_of(waiting) == (402, "funds_in_flight")
        assert waiting.headers["retry-after"] == "1"
        never = await try_lease(world, buyer, max_tokens=2 * big)
        assert error_of(never) == (402, "insufficient_funds")

    async def test_what_is_over_is_settled_at_once(self, world, providers):
        """No job has run between the two."""
        big = 10**7 // price(world, 0, 1)
        buyer = await world.buyer(nanos=12 * 10**6)
        quote = (await world.quote(buyer, prompt_tokens=100, max_tokens=big)).json()
        session = await world.lease(buyer, quote)
        await finish(world, buyer, session, providers, output=5)
        second = await try_lease(world, buyer, max_tokens=big)
        assert second.status_code == 200, second.text

    async def test_a_session_does_not_begin_with_what_anothers_answer_may_need(
        self, world, providers
    ):
        tokens = 10**7 // price(world, 0, 1)
        asked = {"max_tokens": tokens, "funded_tokens": 50}
        buyer = await world.buyer(nanos=15 * 10**6)
        session = await begin(world, buyer, **asked)
        second = await try_lease(world, buyer, **asked)
        assert error_of(second) == (402, "funds_in_flight")
        # the one under way gets all it may need
        assert (await extend(world, buyer, session, tokens)).status_code == 200

    async def test_who_is_alone_takes_what_there_is(self, world, providers):
        asked = {"max_tokens": 2 * 10**7 // price(world, 0, 1), "funded_tokens": 50}
        buyer = await world.buyer(nanos=10**7)
        session = await begin(world, buyer, **asked)
        assert session.answer["amount_nanos"] == price(world, 100, 50)
