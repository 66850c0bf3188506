"""Top-ups by Checkout: opened once, credited once, by webhook or by looking."""

import asyncio
import secrets

import pytest

from ledger.accounts import AccountCode
from tests.fakestripe import Fault
from tests.fakestripe.checkouts import LIFE_S
from tests.marketplace.world import DOLLAR, error_of

pytestmark = pytest.mark.both_engines
CENT = DOLLAR // 100


async def test_a_top_up_is_credited_by_its_webhook(shop):
    buyer = await shop.world.buyer()
    opened = await shop.open(buyer, topup_id="ab" * 16)
    session = shop.session_of(opened)
    assert session["amount_total"] == 2_000
    assert session["client_reference_id"] == "ab" * 16
    assert session["success_url"].startswith("https://market.test/topups/")
    assert (await shop.open(buyer, topup_id="ab" * 16)).json() == opened.json()
    assert await shop.cash(buyer) == 0

    shop.stripe.pay_checkout(session["id"])
    await shop.hear()
    shown = (await shop.call("GET", f"/v1/topups/{'ab' * 16}", buyer)).json()
    assert shown["status"] == "paid"
    assert shown["receipt_url"].startswith("https://pay.stripe.test/receipts/")
    assert await shop.cash(buyer) == 20 * DOLLAR
    assert shop.book(AccountCode.PROCESSOR_PENDING) == -20 * DOLLAR
    assert shop.violations() == []


async def test_webhooks_twice_late_and_in_disorder_credit_once(shop):
    shop.stripe.webhooks.misbehave(share_twice=1.0, delay_s_max=600, seed=5)
    buyer = await shop.world.buyer()
    for _ in range(4):
        opened = await shop.open(buyer, 5 * DOLLAR)
        shop.stripe.pay_checkout(shop.session_of(opened)["id"])
    for _ in range(8):
        await shop.hear()
        shop.pass_time(100)
    assert shop.stripe.webhooks.waiting == 0
    assert await shop.cash(buyer) == 20 * DOLLAR
    assert shop.violations() == []


async def test_a_buyer_who_comes_back_first_is_credited_once_too(shop):
    buyer = await shop.world.buyer()
    opened = await shop.open(buyer)
    path = f"/v1/topups/{opened.json()['topup_id']}/refresh"
    assert (await shop.call("POST", path, buyer)).json()["status"] == "open"
    shop.stripe.pay_checkout(shop.session_of(opened)["id"])
    answers = await asyncio.gather(shop.hear(), *(shop.call("POST", path, buyer) for _ in range(5)))
    assert {answer.json()["status"] for answer in answers[1:]} == {"paid"}
    assert await shop.cash(buyer) == 20 * DOLLAR


@pytest.mark.parametrize(
    "fault", [Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.ERROR_STORED, Fault.RATE_LIMIT]
)
async def test_a_page_that_could_not_be_opened_can_be_asked_for_again(shop, fault):
    buyer = await shop.world.buyer()
    topup_id = secrets.token_hex(16)
    shop.stripe.faults.next(fault)
    failed = await shop.open(buyer, topup_id=topup_id)
    assert error_of(failed) == (503, "processor_unavailable")
    opened = await shop.open(buyer, topup_id=topup_id)
    shop.stripe.pay_checkout(shop.session_of(opened)["id"])
    await shop.hear()
    assert await shop.cash(buyer) == 20 * DOLLAR


async def test_a_page_that_has_closed_is_opened_anew(shop):
    buyer = await shop.world.buyer()
    first = await shop.open(buyer, topup_id="cd" * 16)
    shop.pass_time(LIFE_S)
    second = await shop.open(buyer, topup_id="cd" * 16)
    assert second.json()["checkout_url"] != first.json()["checkout_url"]
    shop.stripe.pay_checkout(shop.session_of(second)["id"])
    await shop.hear()
    assert await shop.cash(buyer) == 20 * DOLLAR


async def test_a_declined_card_leaves_the_page_open(shop):
    buyer = await shop.world.buyer()
    opened = await shop.open(buyer)
    session = shop.session_of(opened)["id"]
    shop.stripe.pay_checkout(session, card="4000000000000002")
    await shop.hear()
    assert await shop.cash(buyer) == 0
    shop.stripe.pay_checkout(session)
    await shop.hear()
    assert await shop.cash(buyer) == 20 * DOLLAR


@pytest.mark.parametrize("amount", [DOLLAR + 1, DOLLAR + CENT // 2])
async def test_only_whole_cents_can_be_paid(shop, amount):
    buyer = await shop.world.buyer()
    assert error_of(await shop.open(buyer, amount)) == (400, "amount_not_whole")
    assert shop.stripe.all("checkout.session") == []


async def test_less_than_stripe_takes_is_refused_by_stripe(shop):
    buyer = await shop.world.buyer()
    assert error_of(await shop.open(buyer, CENT)) == (402, "card_declined")


async def test_the_bank_is_asked_to_make_sure_of_a_first_payer(shop):
    buyer = await shop.world.buyer()
    await shop.top_up(buyer)
    await shop.top_up(buyer)
    asked = [s["_three_d_secure"] for s in shop.stripe.all("checkout.session")]
    assert asked == ["any", "automatic"]


async def test_what_may_be_paid_in_grows_with_what_was_paid(shop):
    buyer = await shop.world.buyer()
    assert error_of(await shop.open(buyer, 101 * DOLLAR)) == (403, "topup_limit")
    await shop.top_up(buyer, 60 * DOLLAR)
    refused = await shop.open(buyer, 50 * DOLLAR)
    assert refused.json()["error"]["details"]["amount_nanos_max"] == 40 * DOLLAR
    shop.pass_time(7 * 24 * 3600)
    await shop.top_up(buyer, 500 * DOLLAR)
    assert await shop.cash(buyer) == 560 * DOLLAR


async def test_the_history_shows_what_happened(shop):
    buyer, other = await shop.world.buyer(), await shop.world.buyer()
    paid = await shop.top_up(buyer)
    shop.pass_time(10)
    waiting = (await shop.open(buyer, 7 * DOLLAR)).json()["topup_id"]
    history = (await shop.call("GET", "/v1/billing/history", buyer)).json()
    assert [(entry["topup_id"], entry["status"]) for entry in history["topups"]] == [
        (waiting, "open"),
        (paid, "paid"),
    ]
    assert history["topups"][1]["receipt_url"]
    nothing = (await shop.call("GET", "/v1/billing/history", other)).json()
    assert nothing == {"topups": [], "refunds": []}


async def test_the_test_processors_page_is_not_there(shop):
    path = f"/v1/test-processor/checkouts/{'0' * 32}/complete"
    assert error_of(await shop.world.http.post(path)) == (404, "not_found")
    assert (await shop.world.http.get("/v1/market")).json()["processor"] == "stripe"
