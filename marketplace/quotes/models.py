"""Tables of `quotes`."""

from typing import ClassVar

from sqlalchemy import BigInteger, CheckConstraint, UniqueConstraint
from sqlmodel import Field

from ledger.digested import DigestedBase

__all__ = ["QuoteRow"]


class QuoteRow(DigestedBase, table=True):
    """One quote and its terms; accepted at most once."""

    __tablename__: ClassVar[str] = "market_quote"
    __table_args__ = (
        UniqueConstraint("session_id"),
        CheckConstraint("session_id IS NULL OR length(session_id) = 16", name="session_id"),
    )
    NOT_COVERED: ClassVar[frozenset[str]] = frozenset({"session_id"})
    """Set by every request that is paid: `quotes.books` compares it with the session."""

    quote_id: bytes = Field(primary_key=True, max_length=16)
    account_id: str = Field(max_length=32, foreign_key="market_account.account_id")
    expires_at_s: int = Field(index=True, sa_type=BigInteger)
    terms: bytes
    """`quotes.terms.QuoteTerms` in canonical CBOR."""
    session_id: bytes | None = Field(default=None, max_length=16)
    """The session that accepted it."""
