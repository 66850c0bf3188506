"""JSON of `leases`."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from marketplace.fields import (
    AMOUNT_NANOS_MAX,
    Base64Bytes,
    HexHash,
    HexId,
    PeerText,
    Schema,
    SpanSchema,
    WorkSchema,
)
from marketplace.quotes.schemas import PEERS_MAX, TOKENS_MAX, QuotedHopSchema
from protocol.limits import HOPS_MAX

__all__ = [
    "ExtensionRequest",
    "ExtensionSchema",
    "LeaseRequest",
    "LeasesSchema",
    "ReplacementLeaseSchema",
    "ReplacementRequest",
    "ReplacementSchema",
    "SessionHopSchema",
    "SessionSchema",
    "SessionStatus",
]


EPOCH_MAX = 2**32 - 1
"""What the frames of a session can say."""


def _check_distinct(hops: list[int]) -> list[int]:
    if len(set(hops)) != len(hops):
        raise ValueError("names a hop twice")
    return hops


HopIndex = Annotated[int, Field(ge=0, lt=HOPS_MAX)]


class LeaseRequest(Schema):
    """Accept a quote for one session."""

    quote_id: HexId
    session_id: HexId
    """Chosen by the head; names the session everywhere."""
    payer_key: HexHash
    """Ed25519 key, made for this session, that will sign its receipts."""
    head: PeerText


class LeasesSchema(Schema):
    """The money is held, and these are the leases, in the order of the route."""

    hold_id: HexId
    amount_nanos: int
    leases: list[Base64Bytes]
    settle_by_s: int


class ReplacementRequest(Schema):
    """Other hops for a session some of whose hops are lost."""

    epoch: Annotated[int, Field(ge=1, le=EPOCH_MAX)]
    """Chosen by the head, above every earlier one: the same again gets the same answer."""
    lost: Annotated[
        list[HopIndex], Field(min_length=1, max_length=HOPS_MAX), AfterValidator(_check_distinct)
    ]
    """Hop indexes of the present route. All of them: a wholly new route is wanted."""
    rows: Annotated[int, Field(ge=0, le=TOKENS_MAX)]
    """Rows that the session has now; they are replayed to the new hops, as prefill."""
    remaining_tokens: Annotated[int, Field(ge=1, le=TOKENS_MAX)]
    """Tokens that may still come."""
    deny: list[PeerText] = Field(max_length=PEERS_MAX, default_factory=list)
    """None of these; a lost hop that is not named may come back."""
    allow: Annotated[list[PeerText], Field(min_length=1, max_length=PEERS_MAX)] | None = None
    """Only these providers, as in the quote."""
    amount_nanos_max: Annotated[int, Field(ge=1, le=AMOUNT_NANOS_MAX)] | None = None
    """The most that may be held in addition."""
    funded_tokens: Annotated[int, Field(ge=0, le=TOKENS_MAX)] | None = None
    """Of `remaining_tokens`: hold for so many only; None: for all of them."""
    drafted_tokens: Annotated[int, Field(ge=0, le=TOKENS_MAX)] | None = None
    """Rows that may be run in vain at the new hops; None: as many as in the quote."""

    @model_validator(mode="after")
    def _check_funded(self) -> Self:
        if self.funded_tokens is not None and self.funded_tokens > self.remaining_tokens:
            raise ValueError("funded_tokens are above remaining_tokens")
        return self


class ReplacementLeaseSchema(Schema):
    """The lease of one hop that is new."""

    hop_index: int
    lease: Base64Bytes


class ReplacementSchema(Schema):
    """The route from this epoch on. More money is held, and these are the leases of the new hops;
    every other hop keeps the lease it has."""

    epoch: int
    hold_id: HexId
    amount_nanos: int
    """Held in addition."""
    hops: list[QuotedHopSchema]
    leases: list[ReplacementLeaseSchema]
    settle_by_s: int


class ExtensionRequest(Schema):
    """Pay for more of a running answer. Totals: the same again gets the same answer."""

    funded_tokens: Annotated[int, Field(ge=1, le=TOKENS_MAX)]
    """Tokens of the answer that shall be paid for in all, at every hop of the present route."""
    drafted_tokens: Annotated[int, Field(ge=0, le=TOKENS_MAX)] = 0
    """Rows that may be run in vain in all."""


class ExtensionSchema(Schema):
    """More is held, and these are the leases of the route as it is now, one a hop."""

    epoch: int
    """Of the route that these leases are for."""
    funded_tokens: int
    amount_nanos: int
    """Held for the session in all."""
    leases: list[ReplacementLeaseSchema]
    settle_by_s: int


class SessionStatus(StrEnum):
    """Where a paid session stands."""

    OPEN = "open"
    CLOSED = "closed"
    """The head says it is over; the last receipts are awaited."""
    SETTLED = "settled"
    RELEASED = "released"
    """Nothing was earned; the whole hold went back."""


class SessionHopSchema(Schema):
    """What one hop has carried so far, and the receipt that proves it."""

    peer_id: PeerText
    epoch: int
    """Since when it is on the session's route."""
    hop_index: int
    span: SpanSchema
    lease_id: HexId
    earned_nanos: int
    work: WorkSchema
    receipt: Base64Bytes | None
    leaf_index: int | None


class SessionSchema(Schema):
    """A paid session as its buyer sees it, over all its holds."""

    session_id: HexId
    status: SessionStatus
    charged_nanos: int
    fee_nanos: int
    held_nanos: int
    hops: list[SessionHopSchema]
    """Every hop it ever had, by epoch and in the order of the route."""
