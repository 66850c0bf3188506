"""Refunds and chargebacks beside others: nothing goes back or is taken twice."""

import asyncio
import secrets

import pytest

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.errors import InsufficientFunds as BookRefused
from marketplace.errors import Conflict, InsufficientFunds
from marketplace.payments.errors import NotRefundable
from marketplace.payments.records import (
    ChargebackRecord,
    ChargebackStatus,
    PaymentStatus,
    RefundRecord,
)
from marketplace.payments.refunds import chargebacks
from marketplace.payments.refunds import service as refunds
from marketplace.payments.schemas import RefundRequest
from marketplace.standing import service as standing
from tests.marketplace.racing import in_transaction, on_postgresql, overlapping, refusals
from tests.marketplace.world import DOLLAR

pytestmark = on_postgresql


async def race(shop, held, *works, **more):
    """In threads: the fake of Stripe answers meanwhile."""
    database = shop.world.market.database
    return await asyncio.to_thread(overlapping, database, held, *works, **more)


async def refundable(shop):
    buyer = await shop.world.buyer()
    topup_id = await shop.top_up(buyer)
    shop.stripe.fund(100_000)
    shop.pass_time(3 * 24 * 3600)
    return buyer, topup_id


def refund(shop, buyer, topup_id, amount, refund_id=None):
    wanted = RefundRequest(
        refund_id=refund_id or secrets.token_hex(16), topup_id=topup_id, amount_nanos=amount
    )

    def ask(session):
        return refunds.request(
            session, buyer.account_id, wanted, shop.world.market.processor,
            asked_by="buyer", now_s=shop.world.clock.now,
        )  # fmt: skip

    return ask


async def test_two_refunds_at_once_give_back_no_more_than_was_paid(shop):
    buyer, topup_id = await refundable(shop)
    await shop.top_up(buyer)  # there is cash enough for both
    works = [refund(shop, buyer, topup_id, 15 * DOLLAR) for _ in range(2)]
    outcomes = await race(shop, works[0], in_transaction(shop.world.market.database, works[1]))
    assert refusals(outcomes) == [NotRefundable]
    assert await shop.cash(buyer) == 25 * DOLLAR
    assert shop.violations() == []


async def test_one_refund_asked_for_twice_at_once_is_one(shop):
    buyer, topup_id = await refundable(shop)
    work = refund(shop, buyer, topup_id, 5 * DOLLAR, "cd" * 16)
    outcomes = await race(shop, work, in_transaction(shop.world.market.database, work))
    assert refusals(outcomes) in ([], [Conflict])
    assert await shop.cash(buyer) == 15 * DOLLAR


@pytest.mark.parametrize("refund_first", [True, False])
async def test_what_is_refunded_is_not_spent_beside_it(shop, refund_first):
    buyer, topup_id = await refundable(shop)
    now_s = shop.world.clock.now

    def spend(session):
        return Book(session).hold(
            secrets.token_bytes(16), buyer.account_id, 15 * DOLLAR, now_s=now_s,
            expires_at_s=now_s + 60,
        )  # fmt: skip

    pair = [refund(shop, buyer, topup_id, 15 * DOLLAR), spend]
    first, second = pair if refund_first else pair[::-1]
    outcomes = await race(shop, first, in_transaction(shop.world.market.database, second))
    assert refusals(outcomes) == [BookRefused if refund_first else InsufficientFunds]
    assert await shop.cash(buyer) == 5 * DOLLAR


async def test_a_refund_whose_failure_two_workers_hear_of_comes_back_once(shop):
    buyer, topup_id = await refundable(shop)
    database, refund_id = shop.world.market.database, "ef" * 16
    with database.transaction() as session:
        refund(shop, buyer, topup_id, 5 * DOLLAR, refund_id)(session)
    record = RefundRecord("re_1", refund_id, "pi", 500, PaymentStatus.FAILED)

    def hear(session):
        return refunds.apply_refund(session, record, now_s=shop.world.clock.now)

    assert await race(shop, hear, in_transaction(database, hear)) == [True, False]
    assert await shop.cash(buyer) == 20 * DOLLAR


async def test_a_chargeback_that_two_workers_hear_of_is_taken_once(shop):
    buyer, topup_id = await refundable(shop)
    payment = shop.payment_of(topup_id)["id"]

    def hear(status):
        record = ChargebackRecord("dp_1", payment, 2_000, status, "fraudulent", has_taken=True)
        return lambda session: chargebacks.apply_chargeback(
            session, record, now_s=shop.world.clock.now
        )

    database = shop.world.market.database
    opened = hear(ChargebackStatus.OPEN)
    assert await race(shop, opened, in_transaction(database, opened)) == [True, False]
    assert await shop.cash(buyer) == 0
    won = hear(ChargebackStatus.WON)
    assert await race(shop, won, in_transaction(database, won)) == [True, False]
    assert await shop.cash(buyer) == 20 * DOLLAR
    with database.reading() as session:
        assert not standing.is_frozen(session, buyer.account_id)


async def test_a_chargeback_beside_a_refund_takes_only_what_is_left(shop):
    buyer, topup_id = await refundable(shop)
    payment = shop.payment_of(topup_id)["id"]
    record = ChargebackRecord(
        "dp_1", payment, 2_000, ChargebackStatus.OPEN, "fraudulent", has_taken=True
    )

    def hear(session):
        return chargebacks.apply_chargeback(session, record, now_s=shop.world.clock.now)

    database = shop.world.market.database
    wanted = refund(shop, buyer, topup_id, 15 * DOLLAR)
    outcomes = await race(shop, hear, in_transaction(database, wanted))
    assert refusals(outcomes) == [NotRefundable]
    cash = AccountRef(AccountCode.BUYER_CASH, buyer.account_id)
    with database.reading() as session:
        assert Book(session).balance(cash).posted_nanos == 0
