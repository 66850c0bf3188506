"""HTTP of `standing`."""

from fastapi import APIRouter

from marketplace.endpoints import AnyBuyer, MarketOf
from marketplace.fields import Schema
from marketplace.standing import service

__all__ = ["router"]

router = APIRouter(tags=["standing"])


class StandingSchema(Schema):
    """How far the account is trusted, and what that lets it do."""

    tier: str
    verified: bool
    may_choose_providers: bool
    frozen: list[str]
    """Why nothing leaves the account; empty where it is not frozen."""


@router.get("/v1/standing")
def show_standing(caller: AnyBuyer, market: MarketOf) -> StandingSchema:
    """The standing of the account behind the request."""
    now_s, account_id = market.clock.now_s(), caller.account_id
    with market.database.reading() as session:
        standing = service.of(session, account_id, now_s=now_s)
        may_choose = service.may_choose(
            session, account_id, now_s=now_s, processor_name=market.processor.name
        )
    return StandingSchema(
        tier=standing.tier.value,
        verified=standing.verified,
        may_choose_providers=may_choose,
        frozen=list(standing.frozen),
    )
