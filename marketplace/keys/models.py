"""Tables of `keys`."""

from typing import ClassVar

from sqlalchemy import BigInteger, CheckConstraint
from sqlmodel import Field

from ledger.database import Base, BigInt, BigIntOrNone

__all__ = ["KeyRow", "NonceRow"]


class KeyRow(Base, table=True):
    """One API key. The secret itself is shown once and never stored."""

    __tablename__: ClassVar[str] = "market_api_key"
    __table_args__ = (CheckConstraint("length(secret_hash) = 32", name="secret_hash"),)

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


class NonceRow(Base, table=True):
    """A node's signed request that was taken; kept as long as its time stamp is believed."""

    __tablename__: ClassVar[str] = "market_nonce"

    peer_id: str = Field(primary_key=True, max_length=64)
    nonce: str = Field(primary_key=True, max_length=32)
    expires_at_s: int = Field(sa_type=BigInteger, index=True)
