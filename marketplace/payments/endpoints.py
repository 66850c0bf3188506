"""HTTP of `payments`: top-ups, cards, refunds; what belongs to one processor is mounted with it."""

from typing import Annotated

from fastapi import APIRouter, Header, Path, Request, Response, status
from starlette.concurrency import run_in_threadpool

from marketplace.endpoints import AnyBuyer, ManagingBuyer, MarketOf, Member, Operator
from marketplace.market import Market
from marketplace.payments import billing, checkouts, service
from marketplace.payments.cards import saving, settings
from marketplace.payments.errors import NoCard
from marketplace.payments.inbox import service as inbox
from marketplace.payments.operator_schemas import ReconciliationSchema
from marketplace.payments.reconciling import showing
from marketplace.payments.refunds import service as refunds
from marketplace.payments.schemas import (
    CardCheckout,
    CardRequest,
    CardSchema,
    CheckoutCompleted,
    EventTaken,
    HistorySchema,
    RechargeChoice,
    RechargeSchema,
    RefundRequest,
    RefundSchema,
    TopupRequest,
    TopupSchema,
)
from marketplace.payments.simulated import SimulatedProcessor

__all__ = ["router", "simulated_router", "stripe_router"]

router = APIRouter(tags=["payments"])
simulated_router = APIRouter(prefix="/v1/test-processor", tags=["test processor"])
stripe_router = APIRouter(tags=["payments"])

HexText = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
EventText = Annotated[str, Path(max_length=255)]
SIGNATURE_CHARACTERS_MAX = 4096
"""Stripe sends one signature a secret; two while a secret is rolled."""


@router.post("/v1/topups")
def create_topup(body: TopupRequest, caller: AnyBuyer, market: MarketOf) -> TopupSchema:
    """Open a top-up and get where to pay it; the same again is the same top-up."""
    return checkouts.open_page(market, caller.account_id, body)


@router.get("/v1/topups/{topup_id}")
def show_topup(topup_id: HexText, caller: AnyBuyer, market: MarketOf) -> TopupSchema:
    """Whether the top-up is paid."""
    with market.database.reading() as session:
        return service.find(session, caller.account_id, bytes.fromhex(topup_id))


@router.post("/v1/topups/{topup_id}/refresh")
def refresh_topup(topup_id: HexText, caller: AnyBuyer, market: MarketOf) -> TopupSchema:
    """Ask the processor, as the page does to which a buyer comes back; it is credited once."""
    return checkouts.refresh(market, caller.account_id, bytes.fromhex(topup_id))


@router.get("/v1/billing/history")
def show_history(caller: AnyBuyer, market: MarketOf) -> HistorySchema:
    """Top-ups, recharges and refunds, newest first, with the processor's receipts."""
    with market.database.reading() as session:
        return billing.history(session, caller.account_id)


@router.post("/v1/billing/card")
def save_card(body: CardRequest, caller: ManagingBuyer, market: MarketOf) -> CardCheckout:
    """Where to save a card for auto-recharge, at the processor."""
    checkout = saving.open_page(market, caller.account_id, body.setup_id)
    return CardCheckout(checkout_url=checkout.url)


@router.get("/v1/billing/card")
def show_card(caller: Member, market: MarketOf) -> CardSchema:
    """The saved card, by its last digits."""
    with market.database.reading() as session:
        row = saving.card_of(session, caller.account_id)
    if row is None:
        raise NoCard
    return CardSchema(
        brand=row.card_brand,
        last4=row.card_last4,
        expiry_month=row.card_expiry_month,
        expiry_year=row.card_expiry_year,
    )


@router.delete("/v1/billing/card", status_code=status.HTTP_204_NO_CONTENT)
def forget_card(caller: ManagingBuyer, market: MarketOf) -> Response:
    """Forget it; auto-recharge is off with it."""
    saving.forget(market, caller.account_id)
    return Response(status_code=status.HTTP_204_NO_CONTENT)


@router.get("/v1/billing/auto-recharge")
def show_recharge(caller: Member, market: MarketOf) -> RechargeSchema:
    """When the saved card is charged, and why it may have stopped."""
    with market.database.reading() as session:
        return settings.show(session, caller.account_id, now_s=market.clock.now_s())


@router.put("/v1/billing/auto-recharge")
def choose_recharge(
    body: RechargeChoice, caller: ManagingBuyer, market: MarketOf
) -> RechargeSchema:
    """Charge the saved card by itself, or no more."""
    with market.database.transaction() as session:
        return settings.choose(
            session, caller.account_id, body, market.processor, now_s=market.clock.now_s()
        )


@router.post("/v1/billing/refunds", status_code=status.HTTP_202_ACCEPTED)
def request_refund(body: RefundRequest, caller: ManagingBuyer, market: MarketOf) -> RefundSchema:
    """Give unused balance back to the card it came from."""
    return _refund(market, caller.account_id, body, asked_by="buyer")


@router.get("/v1/operator/reconciliation")
def show_reconciliation(_: Operator, market: MarketOf) -> ReconciliationSchema:
    """The latest comparisons with the processor, what they found, and the webhooks given up."""
    with market.database.reading() as session:
        return showing.show(session)


@router.post("/v1/operator/webhooks/{event_id}/retry", status_code=status.HTTP_202_ACCEPTED)
def retry_webhook(event_id: EventText, _: Operator, market: MarketOf) -> EventTaken:
    """Act again on an event that was given up."""
    with market.database.transaction() as session:
        showing.revive(session, event_id, now_s=market.clock.now_s())
    return EventTaken()


@stripe_router.post("/v1/webhooks/stripe")
async def receive_webhook(
    request: Request,
    market: MarketOf,
    stripe_signature: Annotated[str, Header(max_length=SIGNATURE_CHARACTERS_MAX)] = "",
) -> EventTaken:
    """Stripe's events: kept if signed, then answered, then acted on."""
    # the very bytes that were signed; the database is waited for in a thread
    payload = await request.body()
    await run_in_threadpool(inbox.receive, market, payload, stripe_signature)
    return EventTaken()


@simulated_router.post("/checkouts/{topup_id}/complete")
def complete_checkout(topup_id: HexText, market: MarketOf) -> CheckoutCompleted:
    """Pay a top-up with no money, as a buyer would at a real processor; again is no error."""
    processor = _simulated(market)
    identity = bytes.fromhex(topup_id)
    with market.database.transaction() as session:
        event = processor.complete(identity, service.amount_of(session, identity))
        service.apply_event(session, event, now_s=market.clock.now_s())
    return CheckoutCompleted()


@simulated_router.post("/cards/{setup_id}/complete")
def complete_card(setup_id: HexText, caller: ManagingBuyer, market: MarketOf) -> CardSchema:
    """Save the test card, as a buyer would at a real processor."""
    card = _simulated(market).saved_card(bytes.fromhex(setup_id))
    with market.database.transaction() as session:
        saving.keep_card(session, caller.account_id, card, now_s=market.clock.now_s())
    return show_card(caller, market)


def _simulated(market: Market) -> SimulatedProcessor:
    processor = market.processor
    assert isinstance(processor, SimulatedProcessor), "mounted only with the test processor"
    return processor


def _refund(market: Market, account_id: str, body: RefundRequest, *, asked_by: str) -> RefundSchema:
    with market.database.transaction() as session:
        return refunds.request(
            session,
            account_id,
            body,
            market.processor,
            asked_by=asked_by,
            now_s=market.clock.now_s(),
        )
