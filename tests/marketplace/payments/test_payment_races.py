"""Payments at the same moment: a day's limit holds, and nothing is booked twice."""

import asyncio
import secrets

from sqlmodel import select

from marketplace.accounts.models import BuyerRow
from marketplace.payments import checkouts, service
from marketplace.payments.cards import recharging, saving, settings
from marketplace.payments.cards.repository import RechargeRepository
from marketplace.payments.errors import TopupLimit
from marketplace.payments.inbox import service as inbox
from marketplace.payments.models import RechargeRow
from marketplace.payments.records import (
    Card,
    Payment,
    PaymentEvent,
    PaymentStatus,
)
from marketplace.payments.repository import TopupRepository
from marketplace.payments.schemas import RechargeChoice, TopupRequest
from tests.fakestripe.checkouts import LIFE_S
from tests.marketplace.racing import in_transaction, on_postgresql, overlapping, refusals
from tests.marketplace.world import DOLLAR, error_of

pytestmark = on_postgresql

CARD = Card("pm_1", "visa", "4242", 12, 2099)


def locked_account(buyer):
    """What refers to the account waits: whoever has looked by then has looked too early."""
    return lambda session: session.get(BuyerRow, buyer.account_id, with_for_update=True)


async def race(shop, held, *works, **more):
    """In threads: the fake of Stripe answers meanwhile."""
    database = shop.world.market.database
    return await asyncio.to_thread(overlapping, database, held, *works, **more)


def opening(shop, buyer, amount, topup_id=None):
    request = TopupRequest(amount_nanos=amount, topup_id=topup_id or secrets.token_hex(16))
    return lambda: checkouts.open_page(shop.world.market, buyer.account_id, request)


async def test_two_top_ups_at_once_share_what_may_be_paid_in_a_day(shop):
    buyer = await shop.world.buyer()
    works = [opening(shop, buyer, 60 * DOLLAR) for _ in range(3)]
    outcomes = await race(shop, locked_account(buyer), *works)
    assert refusals(outcomes) == [TopupLimit, TopupLimit]
    assert len(shop.stripe.all("checkout.session")) == 1


async def test_the_same_top_up_twice_at_once_is_one(shop):
    buyer = await shop.world.buyer()
    works = [opening(shop, buyer, 60 * DOLLAR, "ab" * 16) for _ in range(2)]
    _, one, other = await race(shop, locked_account(buyer), *works)
    assert one.checkout_url == other.checkout_url
    assert len(shop.stripe.all("checkout.session")) == 1


async def test_pages_that_have_closed_are_opened_anew_within_the_limit_of_that_day(shop):
    buyer = await shop.world.buyer()
    old = [(await shop.open(buyer, 100 * DOLLAR)).json()["topup_id"]]
    shop.pass_time(LIFE_S + 1)
    old.append((await shop.open(buyer, 100 * DOLLAR)).json()["topup_id"])
    shop.pass_time(LIFE_S + 1)
    works = [opening(shop, buyer, 100 * DOLLAR, topup_id) for topup_id in old]
    outcomes = await race(shop, locked_account(buyer), *works)
    assert refusals(outcomes) == [TopupLimit]
    # and a page that is open another day is still one that can be paid
    shop.pass_time(LIFE_S - 2)
    assert error_of(await shop.open(buyer, DOLLAR)) == (403, "topup_limit")


async def test_a_page_is_opened_anew_while_the_old_one_was_paid_after_all(shop):
    """Whoever credits has the top-up locked, and then keeps its card."""
    buyer = await shop.world.buyer()
    await shop.open(buyer, 60 * DOLLAR, topup_id="ab" * 16)
    shop.pass_time(LIFE_S + 1)
    now_s = shop.world.clock.now

    def keep(session):
        saving.keep_card(session, buyer.account_id, CARD, now_s=now_s)

    outcomes = await race(
        shop,
        lambda session: TopupRepository(session).lock(bytes.fromhex("ab" * 16)) is not None,
        opening(shop, buyer, 60 * DOLLAR, "ab" * 16),
        then=keep,
    )
    assert refusals(outcomes) == []


async def test_a_page_that_is_open_is_given_again_whatever_is_left(shop):
    buyer = await shop.world.buyer()
    opened = await shop.open(buyer, 100 * DOLLAR, topup_id="ab" * 16)
    assert (await shop.open(buyer, 100 * DOLLAR, topup_id="ab" * 16)).json() == opened.json()


def ready_to_charge(shop, buyer, amount):
    """A card on file that is charged `amount` as soon as it may be."""
    market, now_s = shop.world.market, shop.world.clock.now
    choice = RechargeChoice(
        enabled=True, threshold_nanos=1_000 * DOLLAR, amount_nanos=amount,
        monthly_nanos_max=10_000 * DOLLAR,
    )  # fmt: skip
    with market.database.transaction() as session:
        saving.keep_card(session, buyer.account_id, CARD, now_s=now_s)
        settings.choose(session, buyer.account_id, choice, market.processor, now_s=now_s)


def charge(shop, buyer):
    return lambda session: recharging.begin(session, buyer.account_id, now_s=shop.world.clock.now)


async def test_a_recharge_is_begun_once(shop):
    buyer = await shop.world.buyer()
    ready_to_charge(shop, buyer, 20 * DOLLAR)
    work = charge(shop, buyer)
    one, other = await race(shop, work, in_transaction(shop.world.market.database, work))
    assert one is not None
    assert other is None
    with shop.world.market.database.reading() as session:
        assert len(session.exec(select(RechargeRow)).all()) == 1


async def test_a_recharge_and_a_top_up_at_once_share_the_days_limit(shop):
    buyer = await shop.world.buyer()
    ready_to_charge(shop, buyer, 60 * DOLLAR)
    outcomes = await race(shop, charge(shop, buyer), opening(shop, buyer, 60 * DOLLAR))
    assert outcomes[0] is not None
    assert refusals(outcomes) == [TopupLimit]


async def test_no_recharge_passes_the_days_limit(shop):
    buyer = await shop.world.buyer()
    ready_to_charge(shop, buyer, 101 * DOLLAR)
    with shop.world.market.database.transaction() as session:
        assert charge(shop, buyer)(session) is None


async def test_a_charge_that_is_declined_and_paid_at_once_is_paid(shop):
    """One worker has an old answer; the other's is the processor's last word."""
    buyer, database = await shop.world.buyer(), shop.world.market.database
    ready_to_charge(shop, buyer, 20 * DOLLAR)
    with database.transaction() as session:
        topup_id = charge(shop, buyer)(session)
    now_s = shop.world.clock.now

    def hear(status):
        payment = Payment("pi_1", status, 2_000, topup_id, card=CARD)
        return lambda session: recharging.apply_charge(session, payment, now_s=now_s)

    outcomes = await race(
        shop,
        # a decline, up to where the other comes in between
        lambda session: RechargeRepository(session).finish(topup_id, "failed"),
        in_transaction(database, hear(PaymentStatus.SUCCEEDED)),
        then=lambda session: TopupRepository(session).set_payment(topup_id, {"failure": "no"}),
    )
    assert outcomes == [True, True]
    assert await shop.cash(buyer) == 20 * DOLLAR
    with database.reading() as session:
        month = recharging.month_of(now_s)
        charged = RechargeRepository(session).month_nanos(buyer.account_id, month)
        assert charged == 20 * DOLLAR, "it counts against the month's ceiling"


async def test_a_payment_that_two_workers_are_told_of_is_credited_once(shop):
    buyer = await shop.world.buyer()
    opened = (await shop.open(buyer)).json()["topup_id"]
    shop.stripe.pay_checkout(next(iter(shop.stripe.all("checkout.session")))["id"])

    def told(event_id):
        event = PaymentEvent(event_id, bytes.fromhex(opened), 20 * DOLLAR, "pi_1", card=CARD)
        return lambda session: service.apply_event(session, event, now_s=shop.world.clock.now)

    database = shop.world.market.database
    outcomes = await race(
        shop, told("a"), in_transaction(database, told("a")), in_transaction(database, told("b"))
    )
    assert refusals(outcomes) == []
    assert await shop.cash(buyer) == 20 * DOLLAR


async def test_two_workers_take_two_events_and_no_event_twice(shop):
    buyer = await shop.world.buyer()
    opened = await shop.open(buyer)
    shop.stripe.pay_checkout(shop.session_of(opened)["id"])
    shop.stripe.webhooks.deliver(shop.take_webhook)
    market = shop.world.market
    done = await asyncio.gather(*(asyncio.to_thread(inbox.process, market) for _ in range(3)))
    assert sum(done) >= 1
    assert await shop.cash(buyer) == 20 * DOLLAR
    assert shop.violations() == []
