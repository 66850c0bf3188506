"""The public log's tables: leaves, roots of subtrees, the head that orders appends, checkpoints.

Part of `ledger/models.py`, which gives them out; times are unix seconds in BIGINT.
"""

from typing import ClassVar

from sqlalchemy import BigInteger, CheckConstraint, Column, text
from sqlmodel import Field

from ledger.database import Base, BigInt, NanosColumn
from ledger.digested import DigestedBase

__all__ = ["CheckpointRow", "LeafRow", "LogHeadRow", "NodeRow"]


class LeafRow(Base, table=True):
    """One entry of the public log; `hash` is the RFC 6962 leaf hash of `payload`."""

    __tablename__: ClassVar[str] = "ledger_leaf"
    __table_args__ = (CheckConstraint("leaf_index >= 0", name="leaf_index"),)

    leaf_index: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    kind: str = Field(max_length=16)
    payload: bytes
    hash: bytes = Field(max_length=32)


class NodeRow(Base, table=True):
    """Root of one full subtree of the log, kept for every eighth level: proofs read few rows."""

    __tablename__: ClassVar[str] = "ledger_node"

    level: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    node_index: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    hash: bytes = Field(max_length=32)


class LogHeadRow(Base, table=True):
    """The one row whose lock orders appends: the log's size and its right edge."""

    __tablename__: ClassVar[str] = "ledger_log_head"
    __table_args__ = (
        CheckConstraint("id = 1", name="only_one"),
        CheckConstraint("checkpoint_size BETWEEN 0 AND size", name="checkpoint_size"),
    )

    id: int = Field(
        default=1, primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    size: BigInt = 0
    frontier: bytes = b""
    """Hashes of the full subtrees that make up the tree, largest first."""
    checkpoint_size: BigInt = 0


class CheckpointRow(DigestedBase, table=True):
    """A signed size and root, with what the book said in the same transaction."""

    __tablename__: ClassVar[str] = "ledger_checkpoint"

    size: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    root: bytes = Field(max_length=32)
    note: str
    created_at_s: BigInt
    charged_nanos: NanosColumn
    credited_nanos: NanosColumn
    fee_nanos: NanosColumn
    parked_nanos: int = Field(
        default=0,
        # a column that a version added: its check stands with it, for SQLite can add no other
        sa_column=Column(
            BigInteger,
            CheckConstraint("parked_nanos >= 0", name="parked"),
            server_default=text("0"),
            nullable=False,
        ),
    )
    """What is nobody's until a ruling."""
