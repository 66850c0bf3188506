"""HTTP of `statements`."""

from fastapi import APIRouter

from marketplace.endpoints import MarketOf, Node
from marketplace.statements import service
from marketplace.statements.schemas import Statement

__all__ = ["router"]

router = APIRouter(tags=["statements"])


@router.get("/v1/provider")
def show_provider(node: Node, market: MarketOf) -> Statement:
    """What the node that asks has earned, and with which sessions."""
    with market.database.reading() as session:
        return service.statement(session, node)
