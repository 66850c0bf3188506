"""JSON of `offers`."""

from typing import Annotated

from pydantic import Field

from marketplace.fields import Base64Bytes, HexHash, PeerText, RatesSchema, Schema, SpanSchema
from protocol.limits import LAYERS_MAX

__all__ = [
    "OfferList",
    "OfferSchema",
    "OfferTaken",
    "PlacementRequest",
    "PlacementSchema",
    "SignedOffer",
]


class SignedOffer(Schema):
    """An Offer's envelope."""

    offer: Base64Bytes


class OfferTaken(Schema):
    """When the offer must have been renewed."""

    expires_at_s: int


class OfferSchema(Schema):
    """A living offer."""

    peer_id: PeerText
    model: str
    manifest_hash: HexHash
    span: SpanSchema
    backend: str
    rates: RatesSchema
    addresses: list[str]
    expires_at_s: int


class OfferList(Schema):
    """Living offers by provider; `next` goes on where this page ends."""

    data: list[OfferSchema]
    next: PeerText | None


class PlacementRequest(Schema):
    """A node that would hold up to `layers_max` layers."""

    manifest_hash: HexHash
    layers_max: Annotated[int, Field(gt=0, le=LAYERS_MAX)]


class PlacementSchema(Schema):
    """The layers the node should load; counted as covered until then."""

    span: SpanSchema
    expires_at_s: int
