"""HTTP of `ledger_pages`: public, so that anyone can audit."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import PlainTextResponse

from ledger.log import LEAVES_PER_PAGE_MAX
from marketplace.endpoints import MarketOf
from marketplace.ledger_pages import service
from marketplace.ledger_pages.schemas import ConsistencyProof, InclusionProof, LeafPage, Totals

__all__ = ["router"]

router = APIRouter(prefix="/v1/ledger", tags=["ledger"])

Size = Annotated[int, Query(ge=0, lt=2**63)]
Count = Annotated[int, Query(ge=1, le=LEAVES_PER_PAGE_MAX)]


@router.get("/checkpoint", response_class=PlainTextResponse)
def show_checkpoint(market: MarketOf) -> str:
    """The log's newest signed size and root, as a C2SP note."""
    with market.database.reading() as session:
        return service.checkpoint(session)


@router.get("/leaves")
def list_leaves(market: MarketOf, start: Size = 0, count: Count = LEAVES_PER_PAGE_MAX) -> LeafPage:
    """The log's leaves, in order."""
    with market.database.reading() as session:
        return service.leaves(session, start, count)


@router.get("/proof")
def show_inclusion(market: MarketOf, index: Size, size: Size) -> InclusionProof:
    """That a leaf is in the tree of a size."""
    with market.database.reading() as session:
        return service.inclusion(session, index, size)


@router.get("/consistency")
def show_consistency(market: MarketOf, first: Size, second: Size) -> ConsistencyProof:
    """That the log only grew from one size to another."""
    with market.database.reading() as session:
        return service.consistency(session, first, second)


@router.get("/totals")
def show_totals(
    market: MarketOf, after: Annotated[str, Query(pattern="^[0-9A-Za-z]{0,64}$")] = ""
) -> Totals:
    """Every kind of account, and what each provider has earned; the sum is zero."""
    with market.database.reading() as session:
        return service.totals(session, after)
