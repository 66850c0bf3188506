"""Saved cards and auto-recharge: one charge at a time, a ceiling, and no charge twice."""

import asyncio
import secrets

import pytest

from marketplace.payments.cards.recharging import begin
from tests.fakestripe import Fault
from tests.marketplace.world import DOLLAR, error_of

pytestmark = pytest.mark.both_engines
DAY_S = 24 * 3600
CHOICE = {
    "enabled": True,
    "threshold_nanos": 5 * DOLLAR,
    "amount_nanos": 20 * DOLLAR,
    "monthly_nanos_max": 50 * DOLLAR,
}


async def save_card(shop, buyer, **card):
    body = {"setup_id": secrets.token_hex(16)}
    url = (await shop.call("POST", "/v1/billing/card", buyer, json=body)).json()["checkout_url"]
    session = next(s for s in shop.stripe.all("checkout.session") if s["url"] == url)
    shop.stripe.pay_checkout(session["id"], **card)
    await shop.hear()


async def choose(shop, buyer, **changes):
    return await shop.call("PUT", "/v1/billing/auto-recharge", buyer, json=CHOICE | changes)


async def recharge_of(shop, buyer):
    return (await shop.call("GET", "/v1/billing/auto-recharge", buyer)).json()


async def charged(shop, **card):
    """A buyer whose card is charged from now on."""
    buyer = await shop.world.buyer()
    await save_card(shop, buyer, **card)
    assert (await choose(shop, buyer)).status_code == 200
    return buyer


async def test_a_card_is_saved_shown_and_forgotten(shop):
    buyer = await shop.world.buyer()
    assert error_of(await shop.call("GET", "/v1/billing/card", buyer)) == (409, "no_card")
    assert error_of(await choose(shop, buyer)) == (409, "no_card")
    await save_card(shop, buyer)
    shown = (await shop.call("GET", "/v1/billing/card", buyer)).json()
    assert shown == {"brand": "visa", "last4": "4242", "expiry_month": 12, "expiry_year": 2099}
    await choose(shop, buyer)
    for _ in range(2):
        gone = await shop.call("DELETE", "/v1/billing/card", buyer)
        assert gone.status_code == 204
    assert error_of(await shop.call("GET", "/v1/billing/card", buyer)) == (409, "no_card")
    assert (await recharge_of(shop, buyer))["enabled"] is False
    assert [m["customer"] for m in shop.stripe.all("payment_method")] == [None]


async def test_a_top_up_may_save_its_card(shop):
    buyer = await shop.world.buyer()
    await shop.top_up(buyer, save_card=True)
    assert (await shop.call("GET", "/v1/billing/card", buyer)).json()["last4"] == "4242"


async def test_a_low_balance_is_charged_up_to_the_ceiling_of_the_month(shop):
    buyer = await charged(shop)
    assert await shop.work("recharge") == 1
    assert await shop.work("recharge") == 0, "the balance is above the threshold"
    await choose(shop, buyer, threshold_nanos=1_000 * DOLLAR)
    assert await shop.work("recharge") == 1
    assert await shop.work("recharge") == 0, "the third would pass the ceiling"
    assert await shop.cash(buyer) == 40 * DOLLAR
    assert (await recharge_of(shop, buyer))["charged_this_month_nanos"] == 40 * DOLLAR
    shop.pass_time(31 * DAY_S)
    assert await shop.work("recharge") == 1
    await shop.hear()
    kinds = (await shop.call("GET", "/v1/billing/history", buyer)).json()["topups"]
    assert {(entry["kind"], entry["status"]) for entry in kinds} == {("recharge", "paid")}
    assert await shop.cash(buyer) == 60 * DOLLAR
    assert shop.violations() == []


@pytest.mark.parametrize(
    ("number", "reason"),
    [("4000000000000002", "generic_decline"), ("4000002500003184", "authentication_required")],
)
async def test_a_declined_card_turns_it_off_with_the_reason(shop, number, reason):
    buyer = await charged(shop, card=number)
    assert await shop.work("recharge") == 0
    shown = await recharge_of(shop, buyer)
    assert (shown["enabled"], shown["stopped_reason"]) == (False, reason)
    assert shown["charged_this_month_nanos"] == 0
    entry = (await shop.call("GET", "/v1/billing/history", buyer)).json()["topups"][0]
    assert (entry["status"], entry["failure"]) == ("failed", reason)
    await shop.work("recharge")
    assert len(shop.stripe.all("charge")) == 1
    await shop.hear()
    assert shop.violations() == []


@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.ERROR_STORED_AFTER])
async def test_a_charge_without_an_answer_is_looked_up_and_made_once(shop, fault):
    buyer = await charged(shop)
    shop.stripe.faults.next(fault, path="/v1/payment_intents")
    assert await shop.work("recharge") == 0
    assert (await recharge_of(shop, buyer))["is_charging"] is True
    shop.pass_time(60)
    assert await shop.work("recharge") == 1
    await shop.hear()
    assert len(shop.stripe.all("charge")) == 1
    assert await shop.cash(buyer) == 20 * DOLLAR
    assert shop.violations() == []


async def test_a_decline_whose_answer_was_lost_is_found(shop):
    buyer = await charged(shop, card="4000000000009995")
    shop.stripe.faults.next(Fault.DROP_AFTER, path="/v1/payment_intents")
    await shop.work("recharge")
    shop.pass_time(60)
    await shop.work("recharge")
    assert (await recharge_of(shop, buyer))["stopped_reason"] == "insufficient_funds"
    assert len(shop.stripe.all("charge")) == 1


async def test_what_stripe_never_heard_of_ends_after_two_looks(shop):
    """A 500 that is stored: the key answers nothing else for a day, and then is forgotten."""
    buyer = await charged(shop)
    shop.stripe.faults.next(Fault.ERROR_STORED, path="/v1/payment_intents")
    await shop.work("recharge")
    for _ in range(30):
        shop.pass_time(3600)
        if await shop.work("recharge"):
            break
    assert len(shop.stripe.all("charge")) == 1
    assert await shop.cash(buyer) == 20 * DOLLAR
    entries = (await shop.call("GET", "/v1/billing/history", buyer)).json()["topups"]
    assert [entry["failure"] for entry in entries] == ["", "never_charged"]
    assert shop.violations() == []


async def test_many_workers_charge_once(shop):
    buyer = await charged(shop)
    await asyncio.gather(*(shop.work("recharge") for _ in range(6)))
    assert len(shop.stripe.all("charge")) == 1
    assert await shop.cash(buyer) == 20 * DOLLAR


async def test_a_frozen_account_is_not_charged(shop):
    from marketplace.standing import service as standing

    buyer = await charged(shop)
    now_s = shop.world.clock.now
    with shop.world.market.database.transaction() as session:
        standing.freeze(session, buyer.account_id, "looked at", now_s=now_s)
    assert await shop.work("recharge") == 0
    with shop.world.market.database.transaction() as session:
        assert begin(session, buyer.account_id, now_s=now_s) is None


@pytest.mark.parametrize(
    "change",
    [{"amount_nanos": DOLLAR}, {"monthly_nanos_max": 10 * DOLLAR}, {"threshold_nanos": -1}],
)
async def test_a_choice_that_cannot_work_is_refused(shop, change):
    buyer = await shop.world.buyer()
    assert error_of(await choose(shop, buyer, **change)) == (400, "malformed")


async def test_the_test_processor_does_it_in_its_pretend_way(world):
    buyer = await world.buyer()
    body = {"setup_id": secrets.token_hex(16)}
    page = await world.http.post("/v1/billing/card", json=body, headers=buyer.headers)
    saved = await world.http.post(page.json()["checkout_url"], headers=buyer.headers)
    assert saved.json()["brand"] == "test"
    path = "/v1/billing/auto-recharge"
    await world.http.put(path, json=CHOICE, headers=buyer.headers)
    assert await asyncio.to_thread(world.worker.do, "recharge") == 1
    assert (await world.balance(buyer))["available_nanos"] == 20 * DOLLAR
