"""JSON of `quotes`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from marketplace.fields import (
    AMOUNT_NANOS_MAX,
    HexHash,
    HexId,
    PeerText,
    Printable,
    RatesSchema,
    Schema,
    SpanSchema,
    WorkSchema,
)
from marketplace.quotes.terms import QuotedHop
from protocol.tensor import WireDtype

__all__ = ["PEERS_MAX", "TOKENS_MAX", "QuoteRequest", "QuoteSchema", "QuotedHopSchema"]

TOKENS_MAX = 2**31
"""Far above any model's context; keeps products inside what can be stored."""
PEERS_MAX = 1000
"""Names in an allow or deny list."""


class QuoteRequest(Schema):
    """What a buyer wants to run, and on whose machines."""

    model: Annotated[Printable, Field(min_length=1, max_length=300)]
    """A name of the catalogue, or a manifest hash in hex."""
    prompt_tokens: Annotated[int, Field(ge=1, le=TOKENS_MAX)]
    max_tokens: Annotated[int, Field(ge=1, le=TOKENS_MAX)]
    drafted_tokens: Annotated[int, Field(ge=0, le=TOKENS_MAX)] = 0
    """Rows that may be run in vain to have the answer sooner: drafts that do not hold."""
    funded_tokens: Annotated[int, Field(ge=1, le=TOKENS_MAX)] | None = None
    """Hold for so many tokens of the answer only, and for more by POST
    /v1/sessions/{id}/extensions; None: for `max_tokens`."""
    sealed: Literal[True] = True
    """The pool sells sealed routes only: the head holds the ends."""
    wire_dtype: Annotated[WireDtype, Field(strict=False)] = WireDtype.BF16
    amount_nanos_max: Annotated[int, Field(ge=1, le=AMOUNT_NANOS_MAX)] | None = None
    """The most that may be held."""
    allow: Annotated[list[PeerText], Field(min_length=1, max_length=PEERS_MAX)] | None = None
    """Only these providers."""
    deny: list[PeerText] = Field(max_length=PEERS_MAX, default_factory=list)
    """None of these."""

    @model_validator(mode="after")
    def _check_funded(self) -> Self:
        if self.funded_tokens is not None and self.funded_tokens > self.max_tokens:
            raise ValueError("funded_tokens are above max_tokens")
        return self


class QuotedHopSchema(Schema):
    """One hop of the quoted route."""

    peer_id: PeerText
    span: SpanSchema
    addresses: list[str]
    backend: str
    compute_dtype: str
    rates: RatesSchema
    work_max: WorkSchema

    @classmethod
    def of(cls, hop: QuotedHop) -> "QuotedHopSchema":
        return cls(
            peer_id=hop.provider,
            span=SpanSchema.of(hop.span),
            addresses=list(hop.addresses),
            backend=hop.backend,
            compute_dtype=hop.compute_dtype,
            rates=RatesSchema.of(hop.rates),
            work_max=WorkSchema.of(hop.work_max),
        )


class QuoteSchema(Schema):
    """A price, good until `expires_at_s`."""

    quote_id: HexId
    expires_at_s: int
    manifest_hash: HexHash
    model: str
    layers: int
    hidden_size: int
    wire_dtype: str
    amount_nanos_max: int
    """What is held when it is accepted."""
    fee_basis_points: int
    hops: list[QuotedHopSchema]
