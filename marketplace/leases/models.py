"""Tables of `leases`. The leases themselves stand in the ledger's lanes."""

from typing import ClassVar

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, String, UniqueConstraint, text
from sqlmodel import Field

from ledger.database import BigInt, BigIntOrNone, NanosColumn
from ledger.digested import DigestedBase

__all__ = ["SessionHoldRow", "SessionRow"]


class SessionRow(DigestedBase, table=True):
    """A paid session: who pays for it, and whether it is over."""

    __tablename__: ClassVar[str] = "market_session"
    __table_args__ = (
        UniqueConstraint("quote_id"),
        Index(None, "account_id", "created_at_s"),
        Index(None, "closed_at_s"),
        Index(
            "ix_market_session_open",
            "account_id",
            sqlite_where=text("closed_at_s IS NULL"),
            postgresql_where=text("closed_at_s IS NULL"),
        ),
    )

    session_id: bytes = Field(primary_key=True, max_length=16)
    account_id: str = Field(max_length=32, foreign_key="market_account.account_id")
    quote_id: bytes = Field(max_length=16)
    """No foreign key: quotes are forgotten sooner than sessions."""
    created_at_s: BigInt
    closed_at_s: BigIntOrNone = None
    """When the head said that it is over."""
    key_id: str = Field(
        default="", sa_column=Column(String(8), server_default=text("''"), nullable=False)
    )
    """Of the API key it was opened with; empty where a signed-in person opened it."""
    model: str = Field(
        default="", sa_column=Column(String(128), server_default=text("''"), nullable=False)
    )
    layers: int = Field(
        default=0, sa_column=Column(BigInteger, server_default=text("0"), nullable=False)
    )
    """Of the whole model; with key and model kept here so that usage is summed without terms."""


class SessionHoldRow(DigestedBase, table=True):
    """One hold of a session: that of its quote under epoch 0, and one for each replacement."""

    __tablename__: ClassVar[str] = "market_session_hold"
    __table_args__ = (
        UniqueConstraint("hold_id"),
        CheckConstraint("epoch BETWEEN 0 AND 4294967295", name="epoch"),
        CheckConstraint("amount_nanos > 0", name="amount"),
        CheckConstraint(
            "funded_rows >= 0 AND drafted_rows >= 0"
            " AND (funded_rows IS NULL) = (drafted_rows IS NULL)",
            name="funded",
        ),
        CheckConstraint("headroom_nanos >= 0", name="headroom"),
    )

    session_id: bytes = Field(
        primary_key=True, max_length=16, foreign_key="market_session.session_id"
    )
    epoch: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    """Chosen by the head; the session's route is that of the largest."""
    request_digest: bytes = Field(max_length=32)
    """SHA-256 of what was asked, so that the same request again gets the same answer."""
    hold_id: bytes = Field(max_length=16, foreign_key="ledger_hold.hold_id")
    amount_nanos: NanosColumn
    """What is held under it; an extension raises it."""
    terms: bytes | None = None
    """The whole route from this epoch on, as `quotes.terms.QuoteTerms` in canonical CBOR; None for
    a session that was opened before sessions were repaired."""
    created_at_s: BigInt
    settle_by_s: BigInt
    funded_rows: BigIntOrNone = None
    """Rows of the session that its leases pay for, drafts apart; an extension raises it. None: of a
    session from before instalments, all rows."""
    drafted_rows: BigIntOrNone = None
    """Rows that its leases pay for beside those, should they be run in vain."""
    headroom_nanos: int = Field(
        default=0, sa_column=Column(BigInteger, server_default=text("0"), nullable=False)
    )
    """What the rest of its answer may still cost. It is not held; but no other session of the buyer
    begins with it, so that nobody's answer is cut short for one that could have waited."""
