"""The ledger's tables. Money is nanos in BIGINT, times are unix seconds in BIGINT.

Immutable, held so by triggers (`ledger/triggers.py`): transfer, receipt, hold closing, leaf,
checkpoint, node. Working state, changed only by conditional updates: account, hold, lane, log head;
each of their values can be computed again from the immutable rows, and `ledger/invariants.py` with
`ledger/integrity.py` does.
"""

from enum import StrEnum
from typing import ClassVar

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, UniqueConstraint, text
from sqlmodel import Field

from ledger.database import Base, BigInt, BigIntOrNone, NanosColumn
from ledger.tree_models import CheckpointRow, LeafRow, LogHeadRow, NodeRow

__all__ = [
    "AMOUNT_NANOS_MAX",
    "BALANCE_NANOS_MAX",
    "PARTS_PER_HOLD_MAX",
    "AccountRow",
    "CheckpointRow",
    "HoldClosingRow",
    "HoldRow",
    "LaneRow",
    "LeafRow",
    "LogHeadRow",
    "NodeRow",
    "ReceiptRow",
    "TransferCode",
    "TransferRow",
    "TransferState",
]

AMOUNT_NANOS_MAX = 2**60
"""About 1.15 billion dollars in one movement."""

BALANCE_NANOS_MAX = 2**62
"""Above every balance: one more movement still fits 63 bits, so a sum is refused, never wrapped."""


PARTS_PER_HOLD_MAX = 1024
"""Each is a row to resolve when the hold is settled; a session of days grows by fewer."""


class TransferState(StrEnum):
    """What a row does to the balances: `posted` is final, `pending` waits for its resolution."""

    POSTED = "posted"
    PENDING = "pending"
    POST = "post"
    """Resolves a pending row: this much was taken, the rest went back."""
    VOID = "void"
    """Resolves a pending row: everything went back."""


class TransferCode(StrEnum):
    """The codes the ledger itself writes; callers of `Book.transfer` bring their own."""

    HOLD = "hold"
    POST_HOLD = "post_hold"
    RELEASE_HOLD = "release_hold"
    SETTLE = "settle"
    """Clearing to a provider or to the fee; ref = hold id in hex, a colon, and a counter."""


class AccountRow(Base, table=True):
    """Balances of one account; always equal to the fold of its transfers."""

    __tablename__: ClassVar[str] = "ledger_account"
    __table_args__ = (
        *(
            CheckConstraint(f"{column} BETWEEN 0 AND {BALANCE_NANOS_MAX}", name=column)
            for column in ("debits_pending", "debits_posted", "credits_pending", "credits_posted")
        ),
        CheckConstraint(
            "NOT no_overdraft OR debits_pending + debits_posted <= credits_posted",
            name="no_overdraft",
        ),
        Index(None, "code"),
    )

    name: str = Field(primary_key=True, max_length=160)
    """`code:owner`."""
    code: str = Field(max_length=32)
    owner: str = Field(max_length=128)
    no_overdraft: bool
    debits_pending: NanosColumn = 0
    debits_posted: NanosColumn = 0
    credits_pending: NanosColumn = 0
    credits_posted: NanosColumn = 0


class TransferRow(Base, table=True):
    """One immutable movement; corrected only by another. (code, ref) is the idempotency key."""

    __tablename__: ClassVar[str] = "ledger_transfer"
    __table_args__ = (
        CheckConstraint(f"amount_nanos > 0 AND amount_nanos <= {AMOUNT_NANOS_MAX}", name="amount"),
        CheckConstraint("debit <> credit", name="two_accounts"),
        CheckConstraint("state IN ('posted', 'pending', 'post', 'void')", name="state"),
        CheckConstraint(
            "(state IN ('post', 'void')) = (pending_id IS NOT NULL)", name="resolution"
        ),
        Index(
            "uq_ledger_transfer_resolve_once",
            "pending_id",
            unique=True,
            sqlite_where=text("pending_id IS NOT NULL"),
            postgresql_where=text("pending_id IS NOT NULL"),
        ),
        Index(None, "debit"),
        Index(None, "credit"),
    )

    id: bytes = Field(primary_key=True, max_length=16)
    """`row_digest.transfer_id` of code and ref."""
    debit: str = Field(max_length=160, foreign_key="ledger_account.name")
    credit: str = Field(max_length=160, foreign_key="ledger_account.name")
    amount_nanos: NanosColumn
    state: str = Field(default=TransferState.POSTED.value, max_length=8)
    pending_id: bytes | None = Field(default=None, max_length=16, foreign_key="ledger_transfer.id")
    code: str = Field(max_length=32)
    ref: str = Field(max_length=160)
    created_at_s: BigInt
    expires_at_s: BigIntOrNone = None
    """Of a pending row: when the hold may be released at the latest."""
    digest: bytes = Field(max_length=16)
    """`row_digest.transfer_digest` of the other columns."""


class HoldRow(Base, table=True):
    """What stands behind the pending transfers of one hold: how much is leased, whether it is over.

    Its transfers are `hold` with ref = the id in hex for the first part, and `:1`, `:2` … behind it
    for what it has grown by.
    """

    __tablename__: ClassVar[str] = "ledger_hold"
    __table_args__ = (
        CheckConstraint("amount_nanos > 0", name="amount"),
        CheckConstraint(f"parts BETWEEN 1 AND {PARTS_PER_HOLD_MAX}", name="parts"),
        CheckConstraint("leased_nanos BETWEEN 0 AND amount_nanos", name="leased"),
        CheckConstraint("fee_basis_points BETWEEN 0 AND 10000", name="fee"),
        CheckConstraint("charged_nanos BETWEEN 0 AND amount_nanos", name="charged"),
        Index(
            "ix_ledger_hold_open",
            "settle_by_s",
            sqlite_where=text("charged_nanos IS NULL"),
            postgresql_where=text("charged_nanos IS NULL"),
        ),
    )

    hold_id: bytes = Field(primary_key=True, max_length=16)
    buyer: str = Field(max_length=128)
    """Owner of the debited buyer_cash account."""
    amount_nanos: NanosColumn
    """Of all its parts."""
    parts: BigInt = 1
    leased_nanos: NanosColumn = 0
    """Sum of `amount_nanos_max` of its leases."""
    fee_basis_points: BigIntOrNone = None
    """Of its leases; all have the same."""
    settle_by_s: BigInt
    """The latest expiry of its parts or `settle_by_s` of its leases."""
    closed: bool = False
    """The session is over: nothing more will be leased under this hold."""
    charged_nanos: BigIntOrNone = None
    """None while pending; 0 when released."""


class HoldClosingRow(Base, table=True):
    """The session of this hold is over: said once, and `HoldRow.closed` follows it."""

    __tablename__: ClassVar[str] = "ledger_hold_closing"

    hold_id: bytes = Field(primary_key=True, max_length=16, foreign_key="ledger_hold.hold_id")


class LaneRow(Base, table=True):
    """Watermark of one lease: the receipt that counts so far, and what of it is settled."""

    __tablename__: ClassVar[str] = "ledger_lane"
    __table_args__ = (
        CheckConstraint("amount_received_nanos BETWEEN 0 AND amount_nanos_max", name="received"),
        CheckConstraint("amount_settled_nanos BETWEEN 0 AND amount_received_nanos", name="settled"),
        CheckConstraint("last_sequence >= 0 AND steps >= 0 AND tokens >= 0", name="counters"),
        CheckConstraint(
            "prefill_token_layers >= 0 AND decode_token_layers >= 0"
            " AND bytes_in >= 0 AND bytes_out >= 0",
            name="work",
        ),
        Index(None, "hold_id"),
        Index(None, "provider"),
    )

    lease_id: bytes = Field(primary_key=True, max_length=16)
    hold_id: bytes = Field(max_length=16, foreign_key="ledger_hold.hold_id")
    provider: str = Field(max_length=64)
    """PeerId text."""
    lease: bytes
    """The lease's envelope, as issued."""
    amount_nanos_max: NanosColumn
    settle_by_s: BigInt
    last_sequence: BigInt = 0
    steps: BigInt = 0
    """Of `epoch`."""
    tokens: BigInt = 0
    prefill_token_layers: BigInt = 0
    decode_token_layers: BigInt = 0
    bytes_in: BigInt = 0
    bytes_out: BigInt = 0
    link_in_hash: bytes = Field(default=bytes(32), max_length=32)
    link_out_hash: bytes = Field(default=bytes(32), max_length=32)
    amount_received_nanos: NanosColumn = 0
    """Of the receipt with the largest sequence."""
    amount_settled_nanos: NanosColumn = 0
    final: bool = False
    settled: bool = False
    """Its hold is resolved: whatever comes now is refused."""
    epoch: int = Field(
        default=0,
        # a column that a version added: its check stands with it, for SQLite can add no other
        sa_column=Column(
            BigInteger,
            CheckConstraint("epoch >= 0", name="epoch"),
            server_default=text("0"),
            nullable=False,
        ),
    )
    """Of the receipt with the largest sequence."""


class ReceiptRow(Base, table=True):
    """One co-signed receipt that counted when it came, and where the log has it.

    On PostgreSQL a table a window, so that old ones can be archived whole (`ledger/partitions.py`).
    The window is the lease's, which never changes: so the key still means one row a sequence. No
    foreign keys: lane and leaf are written or locked by the same transaction, `check` compares
    them, and looking each up once more took a sixth of the server's time.
    """

    __tablename__: ClassVar[str] = "ledger_receipt"
    __table_args__ = (
        CheckConstraint("sequence > 0", name="sequence"),
        CheckConstraint("amount_nanos >= 0", name="amount"),
        UniqueConstraint("leaf_index", "window_index"),
        {"postgresql_partition_by": "RANGE (window_index)"},
    )

    lease_id: bytes = Field(primary_key=True, max_length=16)
    sequence: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    window_index: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    """`row_digest.window_of` the lease's `issued_at_s`."""
    cosigned: bytes
    amount_nanos: NanosColumn
    leaf_index: int = Field(sa_type=BigInteger)
    received_at_s: BigInt
    digest: bytes = Field(max_length=16)
    """`row_digest.receipt_digest` of the other columns."""
