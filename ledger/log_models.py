"""The log's tables beside leaves and checkpoints: full tiles, cosignatures, balance trees.

Append-only, like the leaves they are made of: tile, cosignature, snapshot. The nodes of a balance
tree are kept for the newest snapshots alone; the tree can be made again only while its accounts
have not moved, and nobody asks for a proof of what was owed last week.
"""

from typing import ClassVar

from sqlalchemy import BigInteger, CheckConstraint, Index, text
from sqlmodel import Field

from ledger.database import Base, BigInt, NanosColumn
from ledger.digested import DigestedBase

__all__ = ["BalanceNodeRow", "BalanceSnapshotRow", "CosignatureRow", "TileRow"]


class TileRow(Base, table=True):
    """256 hashes side by side of one level (C2SP tlog-tiles): level 0 has leaves, each further
    level the roots of full tiles below it."""

    __tablename__: ClassVar[str] = "ledger_tile"
    __table_args__ = (
        CheckConstraint("level BETWEEN 0 AND 7 AND tile_index >= 0", name="place"),
        CheckConstraint("length(hashes) = 8192", name="full"),
    )

    level: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    tile_index: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    hashes: bytes = Field(max_length=8192)


class CosignatureRow(DigestedBase, table=True):
    """What one witness signed under one checkpoint, as the line that stands in the note."""

    __tablename__: ClassVar[str] = "ledger_cosignature"

    size: int = Field(
        primary_key=True,
        sa_type=BigInteger,
        sa_column_kwargs={"autoincrement": False},
        foreign_key="ledger_checkpoint.size",
    )
    witness: str = Field(primary_key=True, max_length=64)
    """PeerId text."""
    line: str
    """Without its newline."""
    received_at_s: BigInt


class BalanceSnapshotRow(DigestedBase, table=True):
    """What was owed at one moment: the root of its balance tree, and where the log says so."""

    __tablename__: ClassVar[str] = "ledger_balance_snapshot"
    __table_args__ = (
        CheckConstraint("sum_nanos >= 0 AND sum_nanos = liabilities_nanos", name="sum"),
        CheckConstraint("account_count >= 0", name="account_count"),
    )

    snapshot_id: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    """When its turn began, in unix seconds: two processes cannot both take it."""
    root: bytes = Field(max_length=32)
    sum_nanos: NanosColumn
    """Of the tree's leaves."""
    liabilities_nanos: NanosColumn
    """The same as the database adds it up."""
    account_count: BigInt
    taken_at_s: BigInt
    secret: bytes = Field(max_length=32)
    """Blinds the owners; never shown."""
    leaf_index: int = Field(sa_type=BigInteger, foreign_key="ledger_leaf.leaf_index", unique=True)


class BalanceNodeRow(Base, table=True):
    """One node of a balance tree; level 0 has the accounts. An odd last node stands again above."""

    __tablename__: ClassVar[str] = "ledger_balance_node"
    __table_args__ = (
        CheckConstraint("sum_nanos >= 0", name="sum"),
        CheckConstraint("(level = 0) = (account IS NOT NULL)", name="account"),
        Index(
            "ix_ledger_balance_node_account",
            "snapshot_id",
            "account",
            unique=True,
            sqlite_where=text("account IS NOT NULL"),
            postgresql_where=text("account IS NOT NULL"),
        ),
    )

    snapshot_id: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    level: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    node_index: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    hash: bytes = Field(max_length=32)
    sum_nanos: NanosColumn
    account: str | None = Field(default=None, max_length=160)
    """Its name in the book; never shown to others."""
