"""The book against Stripe's, both ways and to the cent."""

import pytest
from sqlalchemy import text

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from marketplace.payments.reconciling.service import in_book_nanos, reconcile
from tests.marketplace.payments.test_stripe_refunds import ask
from tests.marketplace.world import DOLLAR

pytestmark = pytest.mark.both_engines
DAY_S = 24 * 3600
CENT = DOLLAR // 100


def run(shop):
    return reconcile(shop.world.market)


def findings(shop):
    with shop.world.market.database.reading() as session:
        rows = session.execute(
            text("SELECT kind, subject FROM market_finding WHERE resolved_at_s IS NULL")
        )
        return [tuple(row) for row in rows]


def in_book_cents(shop):
    with shop.world.market.database.reading() as session:
        nanos = in_book_nanos(session)
    assert nanos % CENT == 0
    return nanos // CENT


async def test_everything_that_happens_adds_up(shop):
    buyer = await shop.world.buyer()
    shop.stripe.fund(50_000)
    topup_id = await shop.top_up(buyer)
    disputed = await shop.top_up(buyer)
    assert run(shop) == 0
    assert shop.book(AccountCode.PROCESSOR_FEES) == -2 * 88 * CENT
    assert shop.book(AccountCode.PROCESSOR_PENDING) == -(4_000 - 2 * 88) * CENT
    shop.pass_time(3 * DAY_S)
    assert run(shop) == 0
    assert shop.book(AccountCode.PROCESSOR_PENDING) == 0
    await ask(shop, buyer, topup_id)
    await shop.work("refunds")
    dispute = shop.stripe.dispute(shop.payment_of(disputed)["id"])
    await shop.hear()
    assert run(shop) == 0
    shop.stripe.close_dispute(dispute, won=True)
    await shop.hear()
    assert run(shop) == 0
    assert in_book_cents(shop) == shop.stripe.available_cents
    assert shop.book(AccountCode.PROCESSOR_AVAILABLE) == -shop.stripe.available_cents * CENT
    assert shop.book(AccountCode.BANK) == 50_000 * CENT
    assert run(shop) == 0
    assert shop.violations() == []


async def test_a_payment_that_nobody_told_of_is_found_and_comes_right(shop):
    buyer = await shop.world.buyer()
    opened = await shop.open(buyer)
    shop.stripe.pay_checkout(shop.session_of(opened)["id"])
    assert run(shop) == 1
    assert [kind for kind, _ in findings(shop)] == ["missing_here"]
    assert [v.invariant for v in shop.violations()] == ["I13"]
    await shop.hear()
    assert run(shop) == 0
    assert shop.violations() == []


async def test_money_in_the_book_that_stripe_never_had_is_found(shop):
    buyer = await shop.world.buyer()
    now_s = shop.world.clock.now
    with shop.world.market.database.transaction() as session:
        Book(session).transfer(
            AccountRef(AccountCode.PROCESSOR_PENDING),
            AccountRef(AccountCode.BUYER_CASH, buyer.account_id),
            DOLLAR,
            code="topup",
            ref="ee" * 16,
            now_s=now_s,
        )
    assert run(shop) == 0, "it may be on its way"
    shop.pass_time(DAY_S)
    assert run(shop) == 1
    assert findings(shop) == [("missing_there", f"topup {'ee' * 16}")]


async def test_a_top_up_that_is_paid_twice_is_found(shop):
    """The buyer paid on the page that had closed for us as well."""
    buyer = await shop.world.buyer()
    topup_id = await shop.top_up(buyer)
    with shop.stripe.locked() as book:
        session = dict(shop.stripe.book.table("checkout.session").popitem()[1])
        session.update(id="cs_second", payment_intent=None, status="open")
        book.table("checkout.session")["cs_second"] = session
    shop.stripe.pay_checkout("cs_second")
    await shop.hear()
    assert await shop.cash(buyer) == 20 * DOLLAR
    assert run(shop) == 1
    assert findings(shop) == [("other_amount", f"topup {topup_id}")]


async def test_payouts_and_their_reversals_are_compared_by_their_group(shop):
    processor = shop.world.market.payout_processor
    shop.stripe.fund(10_000)
    recipient = processor.create_recipient("a" * 32, "a@example.test", "US")
    shop.stripe.onboard(recipient)
    sent = processor.create_transfer("0d" * 16, 700, recipient, attempt=1)
    assert run(shop) == 1
    in_transit = AccountRef(AccountCode.PROVIDER_IN_TRANSIT, "a" * 32)
    available = AccountRef(AccountCode.PROCESSOR_AVAILABLE)
    with shop.world.market.database.transaction() as session:
        book = Book(session)
        earned = AccountRef(AccountCode.GOODWILL)
        book.transfer(earned, in_transit, 700 * CENT, code="test", ref="1", now_s=1)
        book.transfer(in_transit, available, 700 * CENT, code="payout_sent", ref="0d" * 16, now_s=1)
    assert run(shop) == 0
    shop.stripe.reverse(sent.transfer_id, 200)
    assert run(shop) == 1
    with shop.world.market.database.transaction() as session:
        Book(session).transfer(
            available,
            in_transit,
            200 * CENT,
            code="payout_reversed",
            ref=f"{'0d' * 16}:200",
            now_s=1,
        )
    assert run(shop) == 0
    assert in_book_cents(shop) == shop.stripe.available_cents


async def test_the_daily_job_runs_once_a_day(shop):
    buyer = await shop.world.buyer()
    await shop.work("reconcile")
    opened = await shop.open(buyer)
    shop.stripe.pay_checkout(shop.session_of(opened)["id"])
    assert await shop.work("reconcile") == 0, "a day has not passed"
    shop.pass_time(DAY_S)
    assert await shop.work("reconcile") == 1
