"""Tables of `leases`. The leases themselves stand in the ledger's lanes."""

from typing import ClassVar

from sqlalchemy import CheckConstraint, Index, UniqueConstraint
from sqlmodel import Field

from ledger.database import Base, BigInt, BigIntOrNone, NanosColumn

__all__ = ["SessionRow"]


class SessionRow(Base, table=True):
    """A paid session: who pays for it, and the hold behind it."""

    __tablename__: ClassVar[str] = "market_session"
    __table_args__ = (
        UniqueConstraint("quote_id"),
        UniqueConstraint("hold_id"),
        CheckConstraint("amount_nanos > 0", name="amount"),
        Index(None, "account_id", "created_at_s"),
        Index(None, "closed_at_s"),
    )

    session_id: bytes = Field(primary_key=True, max_length=16)
    account_id: str = Field(max_length=32, foreign_key="market_account.account_id")
    quote_id: bytes = Field(max_length=16)
    """No foreign key: quotes are forgotten sooner than sessions."""
    request_digest: bytes = Field(max_length=32)
    """SHA-256 of what was asked, so that the same request again gets the same answer."""
    hold_id: bytes = Field(max_length=16, foreign_key="ledger_hold.hold_id")
    amount_nanos: NanosColumn
    created_at_s: BigInt
    settle_by_s: BigInt
    closed_at_s: BigIntOrNone = None
    """When the head said that it is over."""
