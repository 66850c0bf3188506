"""Tables of `payments`."""

from typing import ClassVar

from sqlalchemy import CheckConstraint
from sqlmodel import Field

from ledger.database import Base, BigInt, BigIntOrNone, NanosColumn

__all__ = ["PaymentEventRow", "TopupRow"]


class TopupRow(Base, table=True):
    """A buyer's wish to pay in; `paid_at_s` is set in the transaction that credits it."""

    __tablename__: ClassVar[str] = "market_topup"
    __table_args__ = (CheckConstraint("amount_nanos > 0", name="amount"),)

    topup_id: bytes = Field(primary_key=True, max_length=16)
    account_id: str = Field(max_length=32, foreign_key="market_account.account_id", index=True)
    amount_nanos: NanosColumn
    checkout_url: str = Field(default="", max_length=2048)
    created_at_s: BigInt
    paid_at_s: BigIntOrNone = None


class PaymentEventRow(Base, table=True):
    """A processor's event that was acted on; the same event again does nothing."""

    __tablename__: ClassVar[str] = "market_payment_event"

    event_id: str = Field(primary_key=True, max_length=255)
    topup_id: bytes = Field(max_length=16, foreign_key="market_topup.topup_id")
    received_at_s: BigInt
