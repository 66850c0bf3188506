"""Tables of `operations`."""

from typing import ClassVar

from sqlalchemy import CheckConstraint, Index
from sqlmodel import Field

from ledger.database import BigInt, BigIntOrNone
from ledger.digested import DigestedBase

__all__ = ["ApprovalRow"]


class ApprovalRow(DigestedBase, table=True):
    """Something that one operator asks for and another decides. It is never changed afterwards."""

    __tablename__: ClassVar[str] = "market_approval"
    __table_args__ = (
        CheckConstraint("length(reason) > 0", name="reason"),
        CheckConstraint("outcome IN ('done', 'refused', 'withdrawn', 'failed')", name="outcome"),
        CheckConstraint("outcome <> 'done' OR decided_by <> asked_by", name="two_people"),
        CheckConstraint("(outcome IS NULL) = (decided_at_s IS NULL)", name="decided"),
        Index(None, "outcome", "asked_at_s"),
    )

    approval_id: bytes = Field(primary_key=True, max_length=16)
    """Chosen by who asks: the same again is the same."""
    action: str = Field(max_length=32)
    subject: str = Field(max_length=128)
    """An account, a dispute, a payout."""
    parameters: str = Field(max_length=4096)
    """JSON, as the action takes them."""
    reason: str = Field(max_length=500)
    asked_by: str = Field(max_length=32, foreign_key="market_user.user_id")
    asked_at_s: BigInt
    expires_at_s: BigInt
    decided_by: str | None = Field(default=None, max_length=32, foreign_key="market_user.user_id")
    decided_at_s: BigIntOrNone = None
    outcome: str | None = Field(default=None, max_length=16)
    """None while it waits."""
