"""HTTP of `earnings`: for a bound machine that signs, and for members of the account."""

from typing import Annotated

from fastapi import APIRouter, Query

from marketplace.earnings import service
from marketplace.earnings.schemas import BreakdownList, EarningsBy, EarningsSchema, ReleaseList
from marketplace.endpoints import MachineOrMember, MarketOf
from marketplace.usage.periods import period_of

__all__ = ["router"]

router = APIRouter(prefix="/v1/earnings", tags=["earnings"])

Cursor = Annotated[str | None, Query(pattern="^[0-9]{1,18}-[0-9A-Za-z]{1,64}$")]
Day = Annotated[str | None, Query(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]


@router.get("")
def show_earnings(earner: MachineOrMember, market: MarketOf) -> EarningsSchema:
    """Earned, held, payable, in transit, paid; by machine, with the reasons for what is held."""
    with market.database.reading() as session:
        return service.earnings(session, earner.account_id)


@router.get("/breakdown")
def show_breakdown(
    earner: MachineOrMember,
    market: MarketOf,
    by: EarningsBy = "day",
    start: Day = None,
    end: Day = None,
) -> BreakdownList:
    """What the machines carried in a period (the last 30 days), by machine, model or day."""
    period = period_of(start, end, now_s=market.clock.now_s())
    with market.database.reading() as session:
        return service.breakdown(session, earner.account_id, period, by)


@router.get("/releases")
def list_releases(earner: MachineOrMember, market: MarketOf, after: Cursor = None) -> ReleaseList:
    """Day by day: what became payable, what is held back, and why."""
    with market.database.reading() as session:
        return service.releases(session, earner.account_id, after)
