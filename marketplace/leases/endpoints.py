"""HTTP of `leases`."""

from typing import Annotated

from fastapi import APIRouter, Path, status

from marketplace.endpoints import BeginningBuyer, InferenceBuyer, MarketOf, RunningBuyer
from marketplace.leases import extending, replacements, service
from marketplace.leases.funding import held_for
from marketplace.leases.schemas import (
    ExtensionRequest,
    ExtensionSchema,
    LeaseRequest,
    LeasesSchema,
    ReplacementRequest,
    ReplacementSchema,
    SessionSchema,
)
from marketplace.quotes.service import require_choice

__all__ = ["router"]

router = APIRouter(tags=["leases"])


SessionId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]


@router.post("/v1/leases")
def create_leases(body: LeaseRequest, caller: BeginningBuyer, market: MarketOf) -> LeasesSchema:
    """Accept a quote: its amount is held, and every hop gets its lease."""
    return held_for(
        market,
        caller.account_id,
        lambda session: service.create(
            session, market, caller.account_id, body, key_id=caller.key_id or ""
        ),
    )


@router.post("/v1/sessions/{session_id}/replacements")
def create_replacements(
    session_id: SessionId, body: ReplacementRequest, caller: RunningBuyer, market: MarketOf
) -> ReplacementSchema:
    """Other hops in the places of lost ones, or a wholly new route; their price is held too."""
    named = bytes.fromhex(session_id)
    # the search takes milliseconds, and must not hold up those who write
    with market.database.reading() as session:
        require_choice(session, market, caller.account_id, body.allow)
        route = replacements.find(session, market, caller.account_id, named, body)
    return held_for(
        market,
        caller.account_id,
        lambda session: replacements.lease(session, market, caller.account_id, named, body, route),
        session_id=named,
    )


@router.post("/v1/sessions/{session_id}/extensions")
def create_extension(
    session_id: SessionId, body: ExtensionRequest, caller: RunningBuyer, market: MarketOf
) -> ExtensionSchema:
    """Pay for more of a running answer: more is held, and every hop's lease says more."""
    named = bytes.fromhex(session_id)
    return held_for(
        market,
        caller.account_id,
        lambda session: extending.extend(session, market, caller.account_id, named, body),
        session_id=named,
    )


@router.post("/v1/sessions/{session_id}/close", status_code=status.HTTP_202_ACCEPTED)
def close_session(session_id: SessionId, caller: InferenceBuyer, market: MarketOf) -> None:
    """The session is over; it is settled once its last receipts are in."""
    with market.database.transaction() as session:
        service.close(
            session, caller.account_id, bytes.fromhex(session_id), now_s=market.clock.now_s()
        )


@router.get("/v1/sessions/{session_id}")
def show_session(session_id: SessionId, caller: InferenceBuyer, market: MarketOf) -> SessionSchema:
    """What the session has come to, with the receipt of every hop."""
    with market.database.reading() as session:
        return service.show(session, caller.account_id, bytes.fromhex(session_id))
