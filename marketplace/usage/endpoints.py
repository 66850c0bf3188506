"""HTTP of `usage`: a buyer's own requests and what they cost."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import StreamingResponse

from marketplace.endpoints import AnyBuyer, MarketOf
from marketplace.usage import service
from marketplace.usage.periods import period_of
from marketplace.usage.schemas import GroupBy, InvoiceList, InvoiceSchema, RequestList, UsageList

__all__ = ["router"]

router = APIRouter(tags=["usage"])

Day = Annotated[str | None, Query(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
Cursor = Annotated[str | None, Query(pattern="^[0-9]{1,19}-[0-9a-f]{32}$")]
Month = Annotated[str, Path(pattern="^[0-9]{4}-[0-9]{2}$")]


@router.get("/v1/usage")
def show_usage(
    caller: AnyBuyer, market: MarketOf, by: GroupBy = "day", start: Day = None, end: Day = None
) -> UsageList:
    """Requests, tokens and cost of a period (the last 30 days), by day, model or key."""
    period = period_of(start, end, now_s=market.clock.now_s())
    with market.database.reading() as session:
        return service.usage(session, caller.account_id, period, by)


@router.get("/v1/requests")
def list_requests(caller: AnyBuyer, market: MarketOf, before: Cursor = None) -> RequestList:
    """Each paid request with what it cost; its receipts are at `/v1/sessions/{session_id}`."""
    with market.database.reading() as session:
        return service.requests(session, caller.account_id, before)


@router.get("/v1/requests.csv", response_class=StreamingResponse)
def export_requests(
    caller: AnyBuyer, market: MarketOf, start: Day = None, end: Day = None
) -> StreamingResponse:
    """The period's requests as a CSV file."""
    period = period_of(start, end, now_s=market.clock.now_s())

    def lines() -> Iterator[str]:
        after = None
        while True:
            # a transaction a page: a slow client must not keep one open
            with market.database.reading() as session:
                text, after = service.csv_page(session, caller.account_id, period, after)
            yield text
            if after is None:
                return

    name = f"piecework-requests-{period.first}-{period.last}.csv"
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(lines(), media_type="text/csv", headers=headers)


@router.get("/v1/invoices")
def list_invoices(caller: AnyBuyer, market: MarketOf) -> InvoiceList:
    """A line a month, the newest first."""
    with market.database.reading() as session:
        return service.invoices(session, caller.account_id, now_s=market.clock.now_s())


@router.get("/v1/invoices/{number}")
def show_invoice(number: Month, caller: AnyBuyer, market: MarketOf) -> InvoiceSchema:
    """What one month came to, by model."""
    with market.database.reading() as session:
        return service.invoice(session, caller.account_id, number, now_s=market.clock.now_s())
