"""Money in and back at its edges: told twice, told of another's, and never more than is free."""

import secrets

import pytest

from ledger.accounts import AccountCode
from ledger.book import Book
from marketplace.payments import service
from marketplace.payments.inbox.repository import WebhookRepository
from marketplace.payments.records import (
    ChargebackRecord,
    ChargebackStatus,
    PaymentEvent,
    PaymentStatus,
    RefundRecord,
)
from marketplace.payments.refunds.chargebacks import apply_chargeback
from marketplace.payments.refunds.service import KEY_LIFE_S, LOOKS_APART_S, apply_refund
from marketplace.payments.repository import TopupRepository
from marketplace.standing import service as standing
from tests.fakestripe import Fault
from tests.marketplace.payments.test_reconciling import run
from tests.marketplace.payments.test_stripe_cards import charged
from tests.marketplace.payments.test_stripe_refunds import ask, paid, status_of
from tests.marketplace.world import DOLLAR, error_of

pytestmark = pytest.mark.both_engines
DAY_S = 24 * 3600


def apply(shop, what, record) -> bool:
    with shop.world.market.database.transaction() as session:
        return what(session, record, now_s=shop.world.clock.now)


def complaint(shop, topup_id, status=ChargebackStatus.OPEN, *, has_taken=True):
    payment = shop.payment_of(topup_id)["id"]
    return ChargebackRecord("dp_1", payment, 2_000, status, "fraudulent", has_taken)


def hold(shop, buyer, nanos) -> None:
    now_s = shop.world.clock.now
    with shop.world.market.database.transaction() as session:
        Book(session).hold(
            secrets.token_bytes(16), buyer.account_id, nanos, now_s=now_s, expires_at_s=now_s + 60
        )


def is_frozen(shop, buyer) -> bool:
    with shop.world.market.database.reading() as session:
        return standing.is_frozen(session, buyer.account_id)


class TestRefunds:
    async def test_one_that_fails_twice_is_given_back_once(self, shop):
        buyer, topup_id = await paid(shop)
        await ask(shop, buyer, topup_id, refund_id="aa" * 16)
        record = RefundRecord("re_1", "aa" * 16, "pi_1", 500, PaymentStatus.FAILED, "closed")
        assert [apply(shop, apply_refund, record) for _ in range(2)] == [True, False]
        assert await shop.cash(buyer) == 20 * DOLLAR
        assert shop.violations() == []
        too_much = await ask(shop, buyer, topup_id, 20 * DOLLAR + DOLLAR // 100)
        assert error_of(too_much) == (409, "not_refundable")

    async def test_one_that_failed_does_not_succeed_afterwards(self, shop):
        buyer, topup_id = await paid(shop)
        await ask(shop, buyer, topup_id, refund_id="aa" * 16)
        for status, moves in ((PaymentStatus.FAILED, True), (PaymentStatus.SUCCEEDED, False)):
            record = RefundRecord("re_1", "aa" * 16, "pi_1", 500, status, "")
            assert apply(shop, apply_refund, record) == moves
        assert await status_of(shop, buyer) == ["failed"]
        assert shop.violations() == []

    async def test_one_of_two_of_a_payment_is_not_taken_for_the_other(self, shop):
        buyer, topup_id = await paid(shop)
        await ask(shop, buyer, topup_id)
        await shop.work("refunds")
        await ask(shop, buyer, topup_id, 3 * DOLLAR)
        shop.stripe.faults.next(Fault.DROP_BEFORE, path="/v1/refunds")
        await shop.work("refunds")
        shop.pass_time(60)
        await shop.work("refunds")
        assert sorted(refund["amount"] for refund in shop.stripe.all("refund")) == [300, 500]
        assert await status_of(shop, buyer) == ["succeeded", "succeeded"]

    async def test_one_whose_key_is_forgotten_is_not_asked_for_again(self, shop):
        buyer, topup_id = await paid(shop)
        await ask(shop, buyer, topup_id)
        shop.stripe.faults.next(Fault.DROP_BEFORE, path="/v1/refunds")
        await shop.work("refunds")
        shop.pass_time(KEY_LIFE_S)
        assert await shop.work("refunds") == 0
        shop.pass_time(LOOKS_APART_S)
        assert await shop.work("refunds") == 1
        assert shop.stripe.all("refund") == []
        assert await status_of(shop, buyer) == ["failed"]
        assert await shop.cash(buyer) == 20 * DOLLAR


class TestChargebacks:
    async def test_a_warning_takes_nothing(self, shop):
        buyer, topup_id = await paid(shop)
        warning = complaint(shop, topup_id, has_taken=False)
        assert not apply(shop, apply_chargeback, warning)
        assert (await shop.cash(buyer), is_frozen(shop, buyer)) == (20 * DOLLAR, False)

    async def test_what_is_held_for_work_under_way_is_not_taken(self, shop):
        buyer, topup_id = await paid(shop)
        hold(shop, buyer, 15 * DOLLAR)
        assert apply(shop, apply_chargeback, complaint(shop, topup_id))
        assert await shop.cash(buyer) == 0
        assert shop.book(AccountCode.CHARGEBACK_LOSS) == -15 * DOLLAR
        assert shop.violations() == []

    async def test_what_was_lost_is_told_of_together_with_what_was_taken(self, shop):
        buyer, topup_id = await paid(shop)
        hold(shop, buyer, 15 * DOLLAR)
        assert run(shop) == 0
        dispute = shop.stripe.dispute(shop.payment_of(topup_id)["id"])
        await shop.hear()
        assert shop.book(AccountCode.CHARGEBACK_LOSS) == -15 * DOLLAR
        assert run(shop) == 0
        shop.stripe.close_dispute(dispute, won=True)
        await shop.hear()
        assert run(shop) == 0

    async def test_one_that_was_won_frees_of_its_own_freeze_alone_and_once(self, shop):
        buyer, topup_id = await paid(shop)
        with shop.world.market.database.transaction() as session:
            standing.freeze(session, buyer.account_id, "operator", now_s=shop.world.clock.now)
        apply(shop, apply_chargeback, complaint(shop, topup_id))
        won = complaint(shop, topup_id, ChargebackStatus.WON)
        assert [apply(shop, apply_chargeback, won) for _ in range(2)] == [True, False]
        assert await shop.cash(buyer) == 20 * DOLLAR
        assert is_frozen(shop, buyer)


async def test_a_second_payment_does_not_become_the_top_ups(shop):
    """Refunds go to the payment that was credited."""
    buyer, topup_id = await paid(shop)
    first = shop.payment_of(topup_id)["id"]
    second = PaymentEvent("pi_2", bytes.fromhex(topup_id), 20 * DOLLAR, payment_id="pi_2")
    with shop.world.market.database.transaction() as session:
        service.apply_event(session, second, now_s=shop.world.clock.now)
    with shop.world.market.database.reading() as session:
        row = TopupRepository(session).payment(bytes.fromhex(topup_id))
        assert row.payment_id == first
    assert await shop.cash(buyer) == 20 * DOLLAR


async def test_what_is_held_does_not_count_against_the_threshold(shop):
    buyer = await charged(shop)
    assert await shop.work("recharge") == 1
    hold(shop, buyer, 16 * DOLLAR)
    assert await shop.work("recharge") == 1
    assert await shop.cash(buyer) == 24 * DOLLAR


async def test_an_event_that_is_done_is_not_revived(shop):
    await paid(shop)
    with shop.world.market.database.transaction() as session:
        events = WebhookRepository(session)
        done = events.count("done")
        assert done > 0
        for event in shop.stripe.all("event"):
            events.revive(event["id"], shop.world.clock.now)
        assert (events.count("done"), events.count("new")) == (done, 0)


async def test_what_was_not_free_is_walked_again_however_old(shop):
    buyer = await shop.world.buyer()
    for _ in range(2):
        await shop.top_up(buyer)
        assert run(shop) == 0
        shop.pass_time(DAY_S)
    shop.pass_time(3 * DAY_S)
    assert run(shop) == 0
    assert shop.book(AccountCode.PROCESSOR_PENDING) == 0
