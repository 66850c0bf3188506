"""Tables of `machines`."""

from typing import ClassVar

from sqlalchemy import BigInteger, CheckConstraint, Index
from sqlmodel import Field

from ledger.database import BigInt, BigIntOrNone, RowId
from ledger.digested import DigestedBase

__all__ = ["BindingRow", "DeviceCodeRow", "MachineRow"]


class MachineRow(DigestedBase, table=True):
    """The account that a machine earns for now."""

    __tablename__: ClassVar[str] = "market_machine"
    __table_args__ = (CheckConstraint("length(name) > 0", name="name"),)

    peer_id: str = Field(primary_key=True, max_length=64)
    """PeerId text."""
    account_id: str = Field(max_length=32, foreign_key="market_account.account_id", index=True)
    name: str = Field(max_length=128)
    bound_at_s: BigInt


class BindingRow(DigestedBase, table=True):
    """One time that a machine belonged to an account; the open one has no end. Never deleted."""

    __tablename__: ClassVar[str] = "market_binding"
    __table_args__ = (
        CheckConstraint("unbound_at_s >= bound_at_s", name="order"),
        Index(None, "peer_id", "bound_at_s"),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=RowId)
    peer_id: str = Field(max_length=64)
    account_id: str = Field(max_length=32, foreign_key="market_account.account_id", index=True)
    bound_at_s: BigInt
    bound_by: str = Field(max_length=48)
    """`user:<id>` or `key:<id>`, who approved it."""
    unbound_at_s: BigIntOrNone = None
    unbound_by: str | None = Field(default=None, max_length=48)


class DeviceCodeRow(DigestedBase, table=True):
    """A node that waits for a person to say whose it is (RFC 8628)."""

    __tablename__: ClassVar[str] = "market_device_code"
    __table_args__ = (
        CheckConstraint("length(code_hash) = 32", name="code_hash"),
        CheckConstraint("purpose IN ('machine', 'key')", name="purpose"),
        CheckConstraint("state IN ('waiting', 'approved', 'denied', 'done')", name="state"),
        CheckConstraint(
            "(state IN ('approved', 'done')) = (account_id IS NOT NULL)", name="account"
        ),
    )

    code_hash: bytes = Field(primary_key=True, max_length=32)
    user_code: str = Field(max_length=8, unique=True)
    peer_id: str = Field(max_length=64, index=True)
    name: str = Field(max_length=128)
    purpose: str = Field(max_length=8)
    """Bind the machine, or give it an API key."""
    state: str = Field(max_length=8)
    account_id: str | None = Field(
        default=None, max_length=32, foreign_key="market_account.account_id"
    )
    interval_s: BigInt
    """The least time between two questions; grows when they come sooner."""
    polled_at_s: BigIntOrNone = None
    created_at_s: BigInt
    expires_at_s: int = Field(sa_type=BigInteger, index=True)
