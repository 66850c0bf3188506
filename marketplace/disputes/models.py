"""Tables of `disputes`. Contradictions and parked money stand in `ledger.dispute_models`."""

from typing import ClassVar

from sqlalchemy import CheckConstraint, Index
from sqlmodel import Field

from ledger import dispute_models
from ledger.database import BigInt
from ledger.digested import DigestedBase

__all__ = ["STATEMENT_CHARACTERS_MAX", "StatementRow", "dispute_models"]

STATEMENT_CHARACTERS_MAX = 4000
"""About a page."""


class StatementRow(DigestedBase, table=True):
    """What somebody concerned by a dispute has to say on it."""

    __tablename__: ClassVar[str] = "market_dispute_statement"
    __table_args__ = (
        CheckConstraint("length(body) > 0", name="body"),
        Index(None, "dispute_id", "made_at_s"),
        Index(None, "author", "made_at_s"),
    )

    statement_id: bytes = Field(primary_key=True, max_length=16)
    """Chosen by the author."""
    dispute_id: bytes = Field(max_length=16, foreign_key="ledger_dispute.dispute_id")
    author: str = Field(max_length=128)
    """A machine's PeerId text, or a market account's id."""
    body: str = Field(max_length=STATEMENT_CHARACTERS_MAX)
    made_at_s: BigInt
