"""HTTP of `payouts`: an account's recipient, payouts, schedule and graceful exit."""

from typing import Annotated

from fastapi import APIRouter, Query

from marketplace.endpoints import AnyBuyer, ManagingBuyer, MarketOf
from marketplace.payouts import pages, recipients, service
from marketplace.payouts.schedule import PayoutTerms, Schedule
from marketplace.payouts.schemas import (
    ExitSchema,
    PayoutList,
    PayoutRequest,
    PayoutSchema,
    RecipientOpened,
    RecipientRequest,
    RecipientSchema,
    ScheduleSchema,
)
from marketplace.payouts.terms import NEVER_S, RULING_WINDOW_S

__all__ = ["router"]

router = APIRouter(prefix="/v1/payouts", tags=["payouts"])

PAYOUTS_MAX = 100
"""In one answer."""


@router.post("/recipient")
def open_recipient(
    body: RecipientRequest, caller: ManagingBuyer, market: MarketOf
) -> RecipientOpened:
    """Where to tell the processor who is paid; again gives the page again.

    Another `country` is another recipient, and only for who was never ready to be paid.
    """
    url = recipients.open_recipient(market, caller.account_id, body.email, body.country)
    with market.database.reading() as session:
        row = recipients.require(session, caller.account_id)
        shown = RecipientSchema.of(row)
    return RecipientOpened(**shown.model_dump(), onboarding_url=url)


@router.get("/recipient")
def show_recipient(caller: AnyBuyer, market: MarketOf) -> RecipientSchema:
    """Whether money can go there; asked of the processor again where it is not fresh."""
    return RecipientSchema.of(recipients.show(market, caller.account_id))


@router.post("")
def create_payout(body: PayoutRequest, caller: ManagingBuyer, market: MarketOf) -> PayoutSchema:
    """Pay out now all that is payable."""
    with market.database.transaction() as session:
        row = service.reserve(
            session,
            caller.account_id,
            body.payout_id,
            origin=Schedule.MANUAL,
            now_s=market.clock.now_s(),
        )
        return PayoutSchema.of(row)


@router.get("")
def list_payouts(
    caller: AnyBuyer,
    market: MarketOf,
    limit: Annotated[int, Query(ge=1, le=PAYOUTS_MAX)] = PAYOUTS_MAX,
    before_s: Annotated[int, Query(ge=0, le=NEVER_S)] = NEVER_S,
) -> PayoutList:
    """Payouts with their states and reasons, and what is payable, held and in transit."""
    with market.database.reading() as session:
        return pages.listing(
            session,
            caller.account_id,
            before_s=before_s,
            limit=limit,
            now_s=market.clock.now_s(),
        )


@router.put("/schedule")
def choose_schedule(
    body: ScheduleSchema, caller: ManagingBuyer, market: MarketOf
) -> ScheduleSchema:
    """When payouts begin, and from what amount."""
    terms = PayoutTerms(Schedule(body.schedule), body.minimum_cents)
    with market.database.transaction() as session:
        recipients.choose_terms(session, caller.account_id, terms, now_s=market.clock.now_s())
    return body


@router.post("/exit")
def begin_exit(caller: ManagingBuyer, market: MarketOf) -> ExitSchema:
    """Leave gracefully: the reserve is given back after the last time for disputes."""
    with market.database.transaction() as session:
        at_s = recipients.begin_exit(session, caller.account_id, now_s=market.clock.now_s())
    return ExitSchema(exit_at_s=at_s, reserve_until_s=at_s + RULING_WINDOW_S)
