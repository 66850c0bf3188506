"""JSON of `leases`."""

from enum import StrEnum

from marketplace.fields import (
    Base64Bytes,
    HexHash,
    HexId,
    PeerText,
    Schema,
    SpanSchema,
    WorkSchema,
)

__all__ = [
    "LeaseRequest",
    "LeasesSchema",
    "SessionHopSchema",
    "SessionSchema",
    "SessionStatus",
]


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
    span: SpanSchema
    lease_id: HexId
    earned_nanos: int
    work: WorkSchema
    receipt: Base64Bytes | None
    leaf_index: int | None


class SessionSchema(Schema):
    """A paid session as its buyer sees it."""

    session_id: HexId
    status: SessionStatus
    charged_nanos: int
    fee_nanos: int
    held_nanos: int
    hops: list[SessionHopSchema]
