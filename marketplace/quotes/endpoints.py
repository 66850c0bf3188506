"""HTTP of `quotes`."""

from fastapi import APIRouter

from marketplace.endpoints import MarketOf, QuotingBuyer
from marketplace.quotes import service
from marketplace.quotes.schemas import QuoteRequest, QuoteSchema

__all__ = ["router"]

router = APIRouter(tags=["quotes"])


@router.post("/v1/quotes")
def create_quote(body: QuoteRequest, caller: QuotingBuyer, market: MarketOf) -> QuoteSchema:
    """The cheapest route for a model and a bound of work; nothing is held yet."""
    # the search takes milliseconds, and must not hold up those who write
    with market.database.reading() as session:
        service.require_choice(session, market, caller.account_id, body.allow)
        terms = service.price(session, market, body)
    with market.database.transaction() as session:
        return service.keep(session, caller.account_id, terms, now_s=market.clock.now_s())
