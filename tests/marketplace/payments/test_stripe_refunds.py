"""Money back: refunds are reserved first and asked once; chargebacks take what is left."""

import asyncio
import secrets

import pytest

from ledger.accounts import AccountCode
from marketplace.standing import service as standing
from tests.fakestripe import Fault
from tests.marketplace.world import DOLLAR, error_of

pytestmark = pytest.mark.both_engines
DAY_S = 24 * 3600


async def ask(shop, buyer, topup_id, amount=5 * DOLLAR, refund_id=None):
    body = {
        "refund_id": refund_id or secrets.token_hex(16),
        "topup_id": topup_id,
        "amount_nanos": amount,
    }
    return await shop.call("POST", "/v1/billing/refunds", buyer, json=body)


async def paid(shop):
    """A buyer whose top-up of 20 dollars is available at Stripe."""
    buyer = await shop.world.buyer()
    topup_id = await shop.top_up(buyer)
    shop.stripe.fund(100_000)
    shop.pass_time(3 * DAY_S)
    return buyer, topup_id


async def status_of(shop, buyer):
    refunds = (await shop.call("GET", "/v1/billing/history", buyer)).json()["refunds"]
    return [refund["status"] for refund in refunds]


async def test_a_refund_leaves_the_balance_first_and_is_asked_for_once(shop):
    buyer, topup_id = await paid(shop)
    refund_id = secrets.token_hex(16)
    for _ in range(2):
        answer = await ask(shop, buyer, topup_id, refund_id=refund_id)
        assert (answer.status_code, answer.json()["status"]) == (202, "reserved")
    assert await shop.cash(buyer) == 15 * DOLLAR
    assert await shop.work("refunds") == 1
    assert await shop.work("refunds") == 0
    await shop.hear()
    assert [(r["amount"], r["metadata"]) for r in shop.stripe.all("refund")] == [
        (500, {"refund_id": refund_id})
    ]
    assert await status_of(shop, buyer) == ["succeeded"]
    assert await shop.cash(buyer) == 15 * DOLLAR
    assert shop.violations() == []


@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.ERROR_STORED_AFTER])
async def test_a_refund_without_an_answer_is_looked_up(shop, fault):
    buyer, topup_id = await paid(shop)
    await ask(shop, buyer, topup_id)
    shop.stripe.faults.next(fault, path="/v1/refunds")
    assert await shop.work("refunds") == 0
    shop.pass_time(60)
    assert await shop.work("refunds") == 1
    assert len(shop.stripe.all("refund")) == 1
    assert await status_of(shop, buyer) == ["succeeded"]
    assert shop.violations() == []


async def test_a_refund_that_fails_weeks_later_is_the_buyers_again(shop):
    buyer, topup_id = await paid(shop)
    await ask(shop, buyer, topup_id)
    await shop.work("refunds")
    shop.pass_time(20 * DAY_S)
    shop.stripe.fail_refund(shop.stripe.all("refund")[0]["id"])
    await shop.hear()
    assert await status_of(shop, buyer) == ["failed"]
    assert await shop.cash(buyer) == 20 * DOLLAR
    assert shop.violations() == []


async def test_a_refund_waits_while_stripe_has_too_little(shop):
    buyer = await shop.world.buyer()
    topup_id = await shop.top_up(buyer)
    await ask(shop, buyer, topup_id)
    assert await shop.work("refunds") == 0
    assert await status_of(shop, buyer) == ["submitted"]
    shop.pass_time(3 * DAY_S)
    assert shop.stripe.available_cents == 2_000 - 88 - 500
    await shop.hear()
    assert await status_of(shop, buyer) == ["succeeded"]
    assert shop.violations() == []


async def test_many_workers_refund_once(shop):
    buyer, topup_id = await paid(shop)
    await ask(shop, buyer, topup_id)
    await asyncio.gather(*(shop.work("refunds") for _ in range(6)))
    assert len(shop.stripe.all("refund")) == 1


async def test_no_more_goes_back_than_was_paid_or_is_left(shop):
    buyer, topup_id = await paid(shop)
    other = await shop.world.buyer()
    second = await shop.top_up(buyer)
    too_much = await ask(shop, buyer, topup_id, 20 * DOLLAR + DOLLAR // 100)
    assert error_of(too_much) == (409, "not_refundable")
    assert error_of(await ask(shop, other, topup_id)) == (404, "topup_unknown")
    assert error_of(await ask(shop, buyer, topup_id, DOLLAR + 1)) == (400, "amount_not_whole")
    waiting = (await shop.open(buyer, DOLLAR)).json()["topup_id"]
    assert error_of(await ask(shop, buyer, waiting, DOLLAR)) == (409, "not_refundable")
    await ask(shop, buyer, topup_id, 20 * DOLLAR, "aa" * 16)
    await ask(shop, buyer, second, 15 * DOLLAR)
    assert error_of(await ask(shop, buyer, second, 6 * DOLLAR)) == (409, "not_refundable")
    again = await ask(shop, buyer, second, DOLLAR, "aa" * 16)
    assert error_of(again) == (409, "conflict")
    assert await shop.cash(buyer) == 5 * DOLLAR


async def test_spent_money_does_not_go_back(shop):
    buyer, topup_id = await paid(shop)
    shop.stripe.dispute(shop.payment_of(await shop.top_up(buyer))["id"])
    await shop.hear()
    with shop.world.market.database.transaction() as session:
        standing.unfreeze(session, buyer.account_id, now_s=shop.world.clock.now)
    await ask(shop, buyer, topup_id, 15 * DOLLAR)
    other = await shop.top_up(buyer)
    shop.stripe.dispute(shop.payment_of(other)["id"])
    await shop.hear()
    with shop.world.market.database.transaction() as session:
        standing.unfreeze(session, buyer.account_id, now_s=shop.world.clock.now)
    left = await shop.cash(buyer)
    assert left == 5 * DOLLAR
    assert (await ask(shop, buyer, topup_id, 5 * DOLLAR)).status_code == 202
    assert await shop.cash(buyer) == 0
    assert shop.violations() == []


async def test_a_chargeback_takes_what_is_left_and_the_rest_is_lost(shop):
    buyer, topup_id = await paid(shop)
    await ask(shop, buyer, topup_id, 15 * DOLLAR)
    dispute = shop.stripe.dispute(shop.payment_of(topup_id)["id"], 2_000)
    await shop.hear()
    assert await shop.cash(buyer) == 0
    assert shop.book(AccountCode.CHARGEBACK_LOSS) == -15 * DOLLAR
    with shop.world.market.database.reading() as session:
        assert standing.is_frozen(session, buyer.account_id)
    assert shop.violations() == []

    shop.stripe.close_dispute(dispute, won=True)
    await shop.hear()
    assert await shop.cash(buyer) == 5 * DOLLAR
    assert shop.book(AccountCode.CHARGEBACK_LOSS) == 0
    with shop.world.market.database.reading() as session:
        assert not standing.is_frozen(session, buyer.account_id)
    assert shop.violations() == []


async def test_a_chargeback_that_is_heard_of_when_it_is_lost_is_whole(shop):
    """Its first event came after the last."""
    buyer, topup_id = await paid(shop)
    shop.stripe.webhooks.misbehave(share_twice=1.0, delay_s_max=1_000, seed=3)
    dispute = shop.stripe.dispute(shop.payment_of(topup_id)["id"])
    shop.stripe.close_dispute(dispute, won=False)
    for _ in range(12):
        shop.pass_time(100)
        await shop.hear()
    assert await shop.cash(buyer) == 0
    assert shop.book(AccountCode.CHARGEBACK_LOSS) == 0
    with shop.world.market.database.reading() as session:
        assert standing.is_frozen(session, buyer.account_id)
    assert error_of(await ask(shop, buyer, topup_id, DOLLAR)) == (409, "not_refundable")
    assert shop.violations() == []


async def test_a_chargeback_that_is_heard_of_before_its_payment_takes_it(shop):
    """The payment's own events come later still, and change nothing more."""
    buyer = await shop.world.buyer()
    opened = await shop.open(buyer)
    shop.stripe.pay_checkout(shop.session_of(opened)["id"])
    payment = shop.payment_of(opened.json()["topup_id"])
    shop.stripe.dispute(payment["id"])
    early = []

    def disputes_first(body, headers):
        if b'"charge.dispute.' in body:
            return shop.take_webhook(body, headers)
        early.append((body, headers))
        return 200

    shop.stripe.webhooks.deliver(disputes_first)
    await shop.work("webhooks")
    assert len(early) > 0
    for body, headers in early:
        assert shop.take_webhook(body, headers) == 200
    await shop.work("webhooks")
    assert await shop.cash(buyer) == 0
    assert shop.book(AccountCode.CHARGEBACK_LOSS) == 0
    with shop.world.market.database.reading() as session:
        assert standing.is_frozen(session, buyer.account_id)
    assert shop.violations() == []
