"""Tables of `standing`."""

from typing import ClassVar

from sqlalchemy import CheckConstraint, Index, text
from sqlmodel import Field

from ledger.database import BigInt, BigIntOrNone, RowId
from ledger.digested import DigestedBase

__all__ = ["FingerprintRow", "FreezeRow", "LinkAllowedRow", "VerificationRow"]


class FreezeRow(DigestedBase, table=True):
    """One reason for which nothing may leave an account; open until it is lifted, kept for ever."""

    __tablename__: ClassVar[str] = "market_freeze"
    __table_args__ = (
        CheckConstraint("length(reason) > 0", name="reason"),
        CheckConstraint("lifted_at_s >= frozen_at_s", name="order"),
        Index(
            "uq_market_freeze_open",
            "account_id",
            "reason",
            unique=True,
            sqlite_where=text("lifted_at_s IS NULL"),
            postgresql_where=text("lifted_at_s IS NULL"),
        ),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=RowId)
    account_id: str = Field(max_length=32, foreign_key="market_account.account_id", index=True)
    reason: str = Field(max_length=200)
    frozen_at_s: BigInt
    lifted_at_s: BigIntOrNone = None


class FingerprintRow(DigestedBase, table=True):
    """An account was seen with a card, a bank account or an address, of which we keep a SHA-256."""

    __tablename__: ClassVar[str] = "market_fingerprint"
    __table_args__ = (
        CheckConstraint("kind IN ('card', 'bank', 'ip')", name="kind"),
        CheckConstraint("length(digest) = 32", name="digest"),
        CheckConstraint("last_seen_at_s >= first_seen_at_s", name="order"),
        Index(None, "kind", "digest"),
    )

    account_id: str = Field(
        primary_key=True, max_length=32, foreign_key="market_account.account_id"
    )
    kind: str = Field(primary_key=True, max_length=8)
    digest: bytes = Field(primary_key=True, max_length=32)
    first_seen_at_s: BigInt
    last_seen_at_s: BigInt


class VerificationRow(DigestedBase, table=True):
    """An operator knows who stands behind the account; above what its history alone would say."""

    __tablename__: ClassVar[str] = "market_verification"

    account_id: str = Field(
        primary_key=True, max_length=32, foreign_key="market_account.account_id"
    )
    verified_at_s: BigInt


class LinkAllowedRow(DigestedBase, table=True):
    """An operator looked at two linked accounts: what one pays the other is payable."""

    __tablename__: ClassVar[str] = "market_link_allowed"

    provider_account: str = Field(
        primary_key=True, max_length=32, foreign_key="market_account.account_id"
    )
    buyer_account: str = Field(
        primary_key=True, max_length=32, foreign_key="market_account.account_id"
    )
    approval_id: str = Field(max_length=64)
    """Of the approval by two people."""
    allowed_at_s: BigInt
