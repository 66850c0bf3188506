"""JSON of `manifests`."""

from marketplace.fields import HexHash, Schema

__all__ = ["ModelList", "ModelSchema", "PriceSchema"]


class PriceSchema(Schema):
    """What a million tokens cost a buyer on the cheapest route now, fee included."""

    prompt_nanos_per_million_tokens: int
    completion_nanos_per_million_tokens: int


class ModelSchema(Schema):
    """One model of the catalogue."""

    id: str
    manifest_hash: HexHash
    layers: int
    hidden_size: int
    context_tokens: int
    family: str
    available: bool
    """Living offers tile it."""
    coverage: list[int]
    """Providers of each layer."""
    price: PriceSchema | None


class ModelList(Schema):
    """The catalogue, by name."""

    data: list[ModelSchema]
