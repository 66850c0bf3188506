"""The table of `payments.inbox`."""

from typing import ClassVar

from sqlalchemy import CheckConstraint, Index, text
from sqlmodel import Field

from ledger.database import BigInt, BigIntOrNone
from ledger.digested import DigestedBase

__all__ = ["WebhookRow"]


class WebhookRow(DigestedBase, table=True):
    """A verified event of the processor's: kept once, acted on until it is done or given up."""

    __tablename__: ClassVar[str] = "market_webhook"
    __table_args__ = (
        CheckConstraint("state IN ('new', 'done', 'dead')", name="state"),
        Index(
            "ix_market_webhook_new",
            "next_at_s",
            sqlite_where=text("state = 'new'"),
            postgresql_where=text("state = 'new'"),
        ),
    )

    event_id: str = Field(primary_key=True, max_length=255)
    kind: str = Field(max_length=255)
    object_id: str = Field(max_length=255)
    account: str = Field(default="", max_length=255)
    """The connected account it happened to; empty for our own."""
    payload: bytes
    """The verified body, as it came."""
    state: str = Field(default="new", max_length=8)
    attempts: BigInt = 0
    next_at_s: BigInt
    error: str = Field(default="", max_length=512)
    """Why it failed last."""
    received_at_s: BigInt
    done_at_s: BigIntOrNone = None
