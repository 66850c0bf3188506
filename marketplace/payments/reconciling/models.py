"""Tables of `payments.reconciling`. What the processor says is in cents, as it says it."""

from typing import ClassVar

from sqlalchemy import CheckConstraint, Index, UniqueConstraint
from sqlmodel import Field

from ledger.database import BigInt, BigIntOrNone, NanosColumn, RowId
from ledger.digested import DigestedBase

__all__ = ["FindingRow", "ReconciliationRow", "TransactionRow"]


class TransactionRow(DigestedBase, table=True):
    """A change of our balance at the processor, and the movement in the book that it is."""

    __tablename__: ClassVar[str] = "market_processor_transaction"
    __table_args__ = (
        CheckConstraint("net_cents = amount_cents - fee_cents", name="net"),
        Index(None, "code", "ref"),
        Index(None, "created_at_s"),
    )

    transaction_id: str = Field(primary_key=True, max_length=255)
    kind: str = Field(max_length=64)
    amount_cents: BigInt
    fee_cents: BigInt
    net_cents: BigInt
    created_at_s: BigInt
    is_available: bool
    """As it is posted in the book."""
    code: str = Field(default="", max_length=32)
    """With `ref`, the movement in the book; empty where it can be none of ours."""
    ref: str = Field(default="", max_length=160)


class ReconciliationRow(DigestedBase, table=True):
    """One run: what both sides say at its end, in nanos, and how they differ."""

    __tablename__: ClassVar[str] = "market_reconciliation"

    id: int | None = Field(default=None, primary_key=True, sa_type=RowId)
    started_at_s: BigInt
    walked_since_s: BigInt
    transactions: BigInt
    """Walked in this run."""
    processor_nanos: NanosColumn
    """The balance as the processor tells it, pending and available."""
    walked_nanos: NanosColumn
    """The same as the sum of every transaction ever walked."""
    book_nanos: NanosColumn
    """The same as the book has it."""
    in_flight_nanos: NanosColumn
    """Of the book, what the processor has not told of yet and need not have."""
    findings_open: BigInt


class FindingRow(DigestedBase, table=True):
    """One thing that the two sides tell differently; it stays until they agree."""

    __tablename__: ClassVar[str] = "market_finding"
    __table_args__ = (
        UniqueConstraint("kind", "subject"),
        CheckConstraint(
            "kind IN ('missing_here', 'missing_there', 'other_amount', 'balance')", name="kind"
        ),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=RowId)
    kind: str = Field(max_length=16)
    subject: str = Field(max_length=320)
    """The processor's transaction, or `code ref` of the movement in the book."""
    book_nanos: NanosColumn
    processor_nanos: NanosColumn
    found_at_s: BigInt
    resolved_at_s: BigIntOrNone = None
