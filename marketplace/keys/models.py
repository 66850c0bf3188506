"""Tables of `keys`."""

from typing import ClassVar

from sqlalchemy import BigInteger, CheckConstraint, Index, text
from sqlmodel import Field

from ledger.database import Base, BigInt, BigIntOrNone, NanosColumn
from ledger.digested import DigestedBase

__all__ = ["BudgetRow", "KeyHoldRow", "KeyRow", "NonceRow"]


class KeyRow(DigestedBase, table=True):
    """One API key. The secret itself is shown once and never stored."""

    __tablename__: ClassVar[str] = "market_api_key"
    __table_args__ = (
        CheckConstraint("length(secret_hash) = 32", name="secret_hash"),
        CheckConstraint("requests_per_minute_max > 0", name="requests_per_minute_max"),
    )
    NOT_COVERED: ClassVar[frozenset[str]] = frozenset({"last_used_at_s"})

    key_id: str = Field(primary_key=True, max_length=8)
    """The public part of the key's text."""
    account_id: str = Field(max_length=32, foreign_key="market_account.account_id", index=True)
    name: str = Field(max_length=128)
    scopes: str = Field(max_length=64)
    """Names of `Scope`, sorted, with commas between."""
    secret_hash: bytes = Field(max_length=32)
    created_at_s: BigInt
    last_used_at_s: BigIntOrNone = None
    """To the settlement window: uses are gathered and written by the worker."""
    revoked_at_s: BigIntOrNone = None
    expires_at_s: BigIntOrNone = None
    requests_per_minute_max: BigIntOrNone = None
    budget_id: str | None = Field(default=None, max_length=8, foreign_key="market_budget.budget_id")
    """None: nothing limits what it spends but the account's balance. A key that replaces another
    has the same one, so that both together spend no more than one might."""


class BudgetRow(DigestedBase, table=True):
    """What a key, with those that replaced it, may spend in a period, and hold open at once.

    spent + reserved <= limit at every moment: both grow by conditional updates alone.
    """

    __tablename__: ClassVar[str] = "market_budget"
    __table_args__ = (
        CheckConstraint("limit_nanos >= 0", name="limit"),
        CheckConstraint("parallel_max > 0", name="parallel_max"),
        CheckConstraint("reset IN ('never', 'day', 'week', 'month')", name="reset"),
        CheckConstraint("reserved_nanos >= 0 AND spent_nanos >= 0", name="amounts"),
        CheckConstraint("open_sessions >= 0", name="open_sessions"),
    )
    NOT_COVERED: ClassVar[frozenset[str]] = frozenset(
        {"reserved_nanos", "spent_nanos", "open_sessions"}
    )
    """Every request changes them: `keys.books` adds them up from the holds."""

    budget_id: str = Field(primary_key=True, max_length=8)
    """The id of the first key that had it."""
    limit_nanos: BigIntOrNone = None
    reset: str = Field(max_length=8)
    period_start_s: BigInt = 0
    """Of the period that the amounts are of; 0 where they are never reset."""
    reserved_nanos: NanosColumn = 0
    """Held by sessions of this period that are not settled."""
    spent_nanos: NanosColumn = 0
    """Charged for sessions of this period."""
    parallel_max: BigIntOrNone = None
    open_sessions: BigInt = 0


class KeyHoldRow(DigestedBase, table=True):
    """Which key a hold was made with, and what of its budget it takes. Every paid hold has one."""

    __tablename__: ClassVar[str] = "market_key_hold"
    __table_args__ = (
        CheckConstraint("amount_nanos > 0", name="amount"),
        CheckConstraint("charged_nanos BETWEEN 0 AND amount_nanos", name="charged"),
        Index(None, "key_id", "created_at_s"),
        Index(
            "ix_market_key_hold_open",
            "hold_id",
            sqlite_where=text("charged_nanos IS NULL"),
            postgresql_where=text("charged_nanos IS NULL"),
        ),
    )

    hold_id: bytes = Field(primary_key=True, max_length=16)
    """No foreign key: the budget is asked before the ledger is."""
    key_id: str = Field(max_length=8)
    budget_id: str | None = Field(default=None, max_length=8)
    """The key's, when the hold was made."""
    period_start_s: BigInt
    amount_nanos: NanosColumn
    charged_nanos: BigIntOrNone = None
    """None until the ledger has settled the hold."""
    is_open: bool = False
    """It counts among the budget's open sessions."""
    created_at_s: BigInt


class NonceRow(Base, table=True):
    """A node's signed request that was taken; kept as long as its time stamp is believed."""

    __tablename__: ClassVar[str] = "market_nonce"

    peer_id: str = Field(primary_key=True, max_length=64)
    nonce: str = Field(primary_key=True, max_length=32)
    expires_at_s: int = Field(sa_type=BigInteger, index=True)
