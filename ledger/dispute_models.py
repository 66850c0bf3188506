"""Tables of contradictions: what was signed twice, what does not match, and whose parked money is.

Immutable, held so by triggers: equivocation, mismatch. A dispute and its leases change once, when
it is ruled on, by conditional updates.
"""

from enum import StrEnum
from typing import ClassVar

from sqlalchemy import BigInteger, CheckConstraint, Index, text
from sqlmodel import Field

from ledger.database import BigInt, BigIntOrNone, NanosColumn
from ledger.digested import DigestedBase

__all__ = [
    "REASON_CHARACTERS_MAX",
    "DisputeKind",
    "DisputeLeaseRow",
    "DisputeRow",
    "DisputeState",
    "EquivocationRow",
    "LooseEndRow",
    "MismatchRow",
]

REASON_CHARACTERS_MAX = 1000
"""A paragraph; it goes into the public log."""


class DisputeKind(StrEnum):
    """What is claimed."""

    LINK_MISMATCH = "link_mismatch"
    """Two neighbours' receipts say different things of the link between them."""
    BAD_OUTPUT = "bad_output"
    """A referee or the operator says that what a hop sent on was not its model's output."""


class DisputeState(StrEnum):
    """How far it is."""

    OPEN = "open"
    RULED = "ruled"


class EquivocationRow(DigestedBase, table=True):
    """Two receipts of one payer that contradict one another; one pair a lease is proof enough."""

    __tablename__: ClassVar[str] = "ledger_equivocation"
    __table_args__ = (
        CheckConstraint("sequence > 0", name="sequence"),
        CheckConstraint("amount_nanos >= 0", name="amount"),
        Index(None, "found_at_s"),
    )

    lease_id: bytes = Field(primary_key=True, max_length=16, foreign_key="ledger_lane.lease_id")
    sequence: BigInt
    """Of the later of the two."""
    first: bytes
    """Co-signed, as they came."""
    second: bytes
    amount_nanos: NanosColumn
    """What the provider is paid: the larger of the two, or what counted before if that is more."""
    leaf_index: int = Field(sa_type=BigInteger, foreign_key="ledger_leaf.leaf_index", unique=True)
    found_at_s: BigInt


class DisputeRow(DigestedBase, table=True):
    """One question about money that is nobody's meanwhile."""

    __tablename__: ClassVar[str] = "ledger_dispute"
    __table_args__ = (
        CheckConstraint("kind IN ('link_mismatch', 'bad_output')", name="kind"),
        CheckConstraint("state IN ('open', 'ruled')", name="state"),
        CheckConstraint("(state = 'ruled') = (ruled_at_s IS NOT NULL)", name="ruled"),
        Index(
            "ix_ledger_dispute_open",
            "opened_at_s",
            sqlite_where=text("state = 'open'"),
            postgresql_where=text("state = 'open'"),
        ),
    )

    dispute_id: bytes = Field(primary_key=True, max_length=16)
    kind: str = Field(max_length=16)
    session_id: bytes = Field(max_length=16)
    state: str = Field(default=DisputeState.OPEN.value, max_length=8)
    claim: str = Field(max_length=REASON_CHARACTERS_MAX)
    """What is claimed, in words."""
    filed_by: str = Field(default="", max_length=128)
    """Who claims it; empty where receipts themselves do."""
    evidence: bytes = b""
    opened_at_s: BigInt
    ruled_at_s: BigIntOrNone = None
    ruled_by: str = Field(default="", max_length=256)
    ruling: str = Field(default="", max_length=REASON_CHARACTERS_MAX)
    """The reason, as it stands in the log."""


class DisputeLeaseRow(DigestedBase, table=True):
    """What of one lease is parked in one dispute, and where a ruling sent it."""

    __tablename__: ClassVar[str] = "ledger_dispute_lease"
    __table_args__ = (
        CheckConstraint("parked_nanos >= 0", name="parked"),
        CheckConstraint(
            "(to_provider_nanos IS NULL) = (to_buyer_nanos IS NULL)"
            " AND to_provider_nanos >= 0 AND to_buyer_nanos >= 0"
            " AND to_provider_nanos + to_buyer_nanos = parked_nanos",
            name="ruled",
        ),
        Index(None, "lease_id"),
        Index(None, "provider"),
        Index(None, "buyer"),
    )

    dispute_id: bytes = Field(
        primary_key=True, max_length=16, foreign_key="ledger_dispute.dispute_id"
    )
    lease_id: bytes = Field(primary_key=True, max_length=16, foreign_key="ledger_lane.lease_id")
    provider: str = Field(max_length=64)
    """PeerId text."""
    buyer: str = Field(max_length=128)
    """Owner of the buyer_cash account that was charged."""
    parked_nanos: NanosColumn
    """Of what lies in `disputed:<lease id in hex>`, as much is there for this dispute."""
    to_provider_nanos: BigIntOrNone = None
    to_buyer_nanos: BigIntOrNone = None


class MismatchRow(DigestedBase, table=True):
    """One link of which its two ends say different things."""

    __tablename__: ClassVar[str] = "ledger_mismatch"
    __table_args__ = (
        CheckConstraint("epoch >= 0 AND steps > 0", name="place"),
        Index(None, "dispute_id"),
    )

    sender_lease: bytes = Field(primary_key=True, max_length=16, foreign_key="ledger_lane.lease_id")
    receiver_lease: bytes = Field(
        primary_key=True, max_length=16, foreign_key="ledger_lane.lease_id"
    )
    epoch: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    steps: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    dispute_id: bytes = Field(max_length=16, foreign_key="ledger_dispute.dispute_id")
    sender: str = Field(max_length=64)
    """PeerId text."""
    receiver: str = Field(max_length=64)
    hop_index: BigInt
    """Of the sender."""
    link_out_hash: bytes = Field(max_length=32)
    link_in_hash: bytes = Field(max_length=32)
    bytes_out: BigInt
    bytes_in: BigInt


class LooseEndRow(DigestedBase, table=True):
    """A settled lease one of whose neighbours stood under another hold: compared when that comes.

    Of a session that was never repaired there is none.
    """

    __tablename__: ClassVar[str] = "ledger_loose_end"
    __table_args__ = (Index(None, "session_id"),)

    lease_id: bytes = Field(primary_key=True, max_length=16, foreign_key="ledger_lane.lease_id")
    session_id: bytes = Field(max_length=16)
