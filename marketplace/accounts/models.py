"""Tables of `accounts`."""

from typing import ClassVar

from sqlalchemy import CheckConstraint
from sqlmodel import Field

from ledger.database import BigInt
from ledger.digested import DigestedBase

__all__ = ["BuyerRow"]


class BuyerRow(DigestedBase, table=True):
    """Who pays. The money itself stands in the ledger, under `buyer_cash:{account_id}`."""

    __tablename__: ClassVar[str] = "market_account"
    __table_args__ = (CheckConstraint("length(name) > 0", name="name"),)

    account_id: str = Field(primary_key=True, max_length=32)
    """128 random bits in hex."""
    name: str = Field(max_length=128)
    created_at_s: BigInt
