"""HTTP of `payments`; the test processor's own page is mounted only where it is in use."""

from typing import Annotated

from fastapi import APIRouter, Path

from marketplace.endpoints import AnyBuyer, MarketOf
from marketplace.payments import service
from marketplace.payments.schemas import CheckoutCompleted, TopupRequest, TopupSchema
from marketplace.payments.simulated import SimulatedProcessor

__all__ = ["router", "simulated_router"]

router = APIRouter(prefix="/v1/topups", tags=["payments"])
simulated_router = APIRouter(prefix="/v1/test-processor", tags=["test processor"])

TopupId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]


@router.post("")
def create_topup(body: TopupRequest, caller: AnyBuyer, market: MarketOf) -> TopupSchema:
    """Open a top-up and get where to pay it; the same again is the same top-up."""
    account_id = caller.account_id
    with market.database.transaction() as session:
        topup = service.open_topup(
            session, account_id, body.topup_id, body.amount_nanos, now_s=market.clock.now_s()
        )
    if topup.checkout_url:
        return topup
    # a processor may take seconds, and the top-up must be ours before it is theirs
    url = market.processor.create_checkout(body.topup_id, body.amount_nanos)
    with market.database.transaction() as session:
        service.set_checkout(session, body.topup_id, url)
        return service.find(session, account_id, body.topup_id)


@router.get("/{topup_id}")
def show_topup(topup_id: TopupId, caller: AnyBuyer, market: MarketOf) -> TopupSchema:
    """Whether the top-up is paid."""
    with market.database.reading() as session:
        return service.find(session, caller.account_id, bytes.fromhex(topup_id))


@simulated_router.post("/checkouts/{topup_id}/complete")
def complete_checkout(topup_id: TopupId, market: MarketOf) -> CheckoutCompleted:
    """Pay a top-up with no money, as a buyer would at a real processor; again is no error."""
    processor = market.processor
    assert isinstance(processor, SimulatedProcessor), "mounted only with the test processor"
    identity = bytes.fromhex(topup_id)
    with market.database.transaction() as session:
        event = processor.complete(identity, service.amount_of(session, identity))
        service.apply_event(session, event, now_s=market.clock.now_s())
    return CheckoutCompleted()
