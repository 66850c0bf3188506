"""HTTP of `offers`."""

from typing import Annotated

from fastapi import APIRouter, Query, status

from marketplace.endpoints import MarketOf, Node
from marketplace.fields import SpanSchema
from marketplace.offers import service
from marketplace.offers.schemas import (
    OfferList,
    OfferTaken,
    PlacementRequest,
    PlacementSchema,
    SignedOffer,
)
from protocol.identity import PeerId

__all__ = ["router"]

router = APIRouter(tags=["offers"])


@router.put("/v1/offers")
def put_offer(body: SignedOffer, node: Node, market: MarketOf) -> OfferTaken:
    """Offer a span, or renew the offer before it expires."""
    with market.database.transaction() as session:
        offer = service.publish(session, node, body.offer, now_s=market.clock.now_s())
    market.index.put(offer)
    return OfferTaken(expires_at_s=offer.expires_at_s)


@router.delete("/v1/offers", status_code=status.HTTP_204_NO_CONTENT)
def delete_offers(node: Node, market: MarketOf) -> None:
    """Withdraw everything the node offers; no new session is sent to it."""
    with market.database.transaction() as session:
        service.withdraw(session, node, now_s=market.clock.now_s())
    market.index.remove(node)


@router.get("/v1/offers")
def list_offers(
    market: MarketOf, after: Annotated[str | None, Query(max_length=64)] = None
) -> OfferList:
    """Every living offer."""
    start = None if after is None else PeerId.from_text(after)
    with market.database.reading() as session:
        return service.listing(session, market, start)


@router.post("/v1/placements")
def create_placement(body: PlacementRequest, node: Node, market: MarketOf) -> PlacementSchema:
    """The scarcest span the node can hold, kept for it while it loads."""
    with market.database.transaction() as session:
        span, expires_at_s = service.place(
            session, market, node, body.manifest_hash, body.layers_max
        )
    return PlacementSchema(span=SpanSchema.of(span), expires_at_s=expires_at_s)
