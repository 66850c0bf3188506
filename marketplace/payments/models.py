"""Tables of `payments`: what buyers pay in, and what goes back to them."""

from typing import ClassVar

from sqlalchemy import CheckConstraint, Index, text
from sqlmodel import Field

from ledger.database import BigInt, BigIntOrNone, NanosColumn
from ledger.digested import DigestedBase
from marketplace.payments.inbox import models as inbox_models
from marketplace.payments.reconciling import models as reconciling_models

__all__ = [
    "BillingRow",
    "ChargebackRow",
    "PaymentEventRow",
    "PaymentRow",
    "RechargeRow",
    "RefundRow",
    "TopupRow",
    "inbox_models",
    "reconciling_models",
]


class TopupRow(DigestedBase, table=True):
    """A buyer's wish to pay in; `paid_at_s` is set in the transaction that credits it."""

    __tablename__: ClassVar[str] = "market_topup"
    __table_args__ = (CheckConstraint("amount_nanos > 0", name="amount"),)

    topup_id: bytes = Field(primary_key=True, max_length=16)
    account_id: str = Field(max_length=32, foreign_key="market_account.account_id", index=True)
    amount_nanos: NanosColumn
    checkout_url: str = Field(default="", max_length=2048)
    created_at_s: BigInt
    paid_at_s: BigIntOrNone = None


class PaymentEventRow(DigestedBase, table=True):
    """A processor's event that was acted on; the same event again does nothing."""

    __tablename__: ClassVar[str] = "market_payment_event"

    event_id: str = Field(primary_key=True, max_length=255)
    topup_id: bytes = Field(max_length=16, foreign_key="market_topup.topup_id")
    received_at_s: BigInt


class PaymentRow(DigestedBase, table=True):
    """How a top-up is paid at the processor, and what of it has gone back."""

    __tablename__: ClassVar[str] = "market_payment"
    __table_args__ = (
        CheckConstraint("method IN ('checkout', 'card')", name="method"),
        CheckConstraint("attempt >= 1", name="attempt"),
        CheckConstraint("refunded_nanos >= 0", name="refunded"),
        Index(
            "uq_market_payment_payment_id",
            "payment_id",
            unique=True,
            sqlite_where=text("payment_id <> ''"),
            postgresql_where=text("payment_id <> ''"),
        ),
        Index(None, "checkout_id"),
    )

    topup_id: bytes = Field(primary_key=True, max_length=16, foreign_key="market_topup.topup_id")
    method: str = Field(max_length=16)
    checkout_id: str = Field(default="", max_length=255)
    attempt: BigInt = 1
    """Of opening a checkout: another page, another idempotency key."""
    expires_at_s: BigInt = 0
    """When the page closes; 0: never."""
    payment_id: str = Field(default="", max_length=255)
    receipt_url: str = Field(default="", max_length=2048)
    failure: str = Field(default="", max_length=64)
    """The processor's code, where it is over and was not paid."""
    refunded_nanos: NanosColumn = 0
    """Sum of its refunds that did not fail."""


class BillingRow(DigestedBase, table=True):
    """An account at the processor: its customer, its card, and when to charge that by itself."""

    __tablename__: ClassVar[str] = "market_billing"
    __table_args__ = (
        CheckConstraint(
            "threshold_nanos >= 0 AND amount_nanos >= 0 AND monthly_nanos_max >= 0", name="amounts"
        ),
        CheckConstraint(
            "NOT recharge_enabled OR (card_id <> '' AND amount_nanos > 0)", name="recharge"
        ),
    )

    account_id: str = Field(
        primary_key=True, max_length=32, foreign_key="market_account.account_id"
    )
    customer: str = Field(default="", max_length=255)
    card_id: str = Field(default="", max_length=255)
    """Empty: none is saved."""
    card_brand: str = Field(default="", max_length=32)
    card_last4: str = Field(default="", max_length=4)
    card_expiry_month: BigInt = 0
    card_expiry_year: BigInt = 0
    setup_checkout_id: str = Field(default="", max_length=255)
    """The page where a card was last to be saved."""
    recharge_enabled: bool = False
    threshold_nanos: NanosColumn = 0
    amount_nanos: NanosColumn = 0
    monthly_nanos_max: NanosColumn = 0
    stopped_reason: str = Field(default="", max_length=64)
    """Why it was turned off by us: the processor's code."""
    changed_at_s: BigInt = 0


class RechargeRow(DigestedBase, table=True):
    """A charge of a saved card while the buyer is away; one at a time for an account."""

    __tablename__: ClassVar[str] = "market_recharge"
    __table_args__ = (
        CheckConstraint("state IN ('open', 'paid', 'failed')", name="state"),
        CheckConstraint("amount_nanos > 0", name="amount"),
        Index(
            "uq_market_recharge_open",
            "account_id",
            unique=True,
            sqlite_where=text("state = 'open'"),
            postgresql_where=text("state = 'open'"),
        ),
        Index(None, "account_id", "month"),
    )

    topup_id: bytes = Field(primary_key=True, max_length=16, foreign_key="market_topup.topup_id")
    account_id: str = Field(max_length=32, foreign_key="market_account.account_id")
    month: str = Field(max_length=7)
    """`2026-11`, UTC: of the ceiling it counts against."""
    amount_nanos: NanosColumn
    card_id: str = Field(max_length=255)
    """The card that is charged: it stays the same however often it is tried."""
    state: str = Field(default="open", max_length=8)
    attempts: BigInt = 0
    next_at_s: BigInt
    missed_at_s: BigIntOrNone = None
    """When the processor was first found to know nothing of it, after it forgot our key."""
    created_at_s: BigInt


class RefundRow(DigestedBase, table=True):
    """Money on its way back to a card; it left the balance in the book before it was asked for."""

    __tablename__: ClassVar[str] = "market_refund"
    __table_args__ = (
        CheckConstraint("state IN ('reserved', 'submitted', 'succeeded', 'failed')", name="state"),
        CheckConstraint("amount_nanos > 0", name="amount"),
        Index(
            "ix_market_refund_open",
            "next_at_s",
            sqlite_where=text("state IN ('reserved', 'submitted')"),
            postgresql_where=text("state IN ('reserved', 'submitted')"),
        ),
    )

    refund_id: bytes = Field(primary_key=True, max_length=16)
    topup_id: bytes = Field(max_length=16, foreign_key="market_topup.topup_id", index=True)
    account_id: str = Field(max_length=32, foreign_key="market_account.account_id", index=True)
    amount_nanos: NanosColumn
    asked_by: str = Field(max_length=64)
    """Who asked: the account itself, or an operator."""
    state: str = Field(default="reserved", max_length=16)
    processor_id: str = Field(default="", max_length=255)
    failure: str = Field(default="", max_length=64)
    attempts: BigInt = 0
    next_at_s: BigInt
    missed_at_s: BigIntOrNone = None
    """As of a recharge."""
    created_at_s: BigInt


class ChargebackRow(DigestedBase, table=True):
    """A card holder's bank took a top-up back: from the balance as far as it went."""

    __tablename__: ClassVar[str] = "market_chargeback"
    __table_args__ = (
        CheckConstraint("state IN ('open', 'won', 'lost')", name="state"),
        CheckConstraint("cash_nanos >= 0 AND loss_nanos >= 0", name="parts"),
        CheckConstraint("cash_nanos + loss_nanos = amount_nanos", name="whole"),
    )

    dispute_id: str = Field(primary_key=True, max_length=255)
    """The processor's."""
    topup_id: bytes = Field(max_length=16, foreign_key="market_topup.topup_id", index=True)
    account_id: str = Field(max_length=32, foreign_key="market_account.account_id", index=True)
    amount_nanos: NanosColumn
    cash_nanos: NanosColumn
    loss_nanos: NanosColumn
    state: str = Field(default="open", max_length=8)
    reason: str = Field(default="", max_length=64)
    opened_at_s: BigInt
    closed_at_s: BigIntOrNone = None
