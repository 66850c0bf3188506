"""What a payment processor tells of money that comes in, in our words. Amounts are whole cents."""

from dataclasses import dataclass
from enum import StrEnum

from protocol.money import Nanos

__all__ = [
    "Card",
    "ChargebackRecord",
    "ChargebackStatus",
    "Checkout",
    "CheckoutState",
    "Payment",
    "PaymentEvent",
    "PaymentStatus",
    "ProcessorEvent",
    "ProcessorTransaction",
    "RefundRecord",
]


class PaymentStatus(StrEnum):
    """What became of a payment or a refund."""

    PENDING = "pending"
    """Not over: it may still succeed."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """Over, and no money moved."""


@dataclass(frozen=True, slots=True)
class Card:
    """A card that was saved at the processor: what may be shown, and what names it there."""

    card_id: str
    brand: str
    last4: str
    expiry_month: int
    expiry_year: int
    fingerprint: str = ""
    """The same for the same card, whoever's it is; empty where none is known."""


@dataclass(frozen=True, slots=True)
class PaymentEvent:
    """The processor says: this top-up is paid."""

    event_id: str
    """The processor's own; the same event may be told more than once."""
    topup_id: bytes
    amount_nanos: Nanos
    payment_id: str = ""
    receipt_url: str = ""
    card: Card | None = None


@dataclass(frozen=True, slots=True)
class Checkout:
    """A page of the processor's, open until `expires_at_s` (0: for ever)."""

    checkout_id: str
    url: str
    expires_at_s: int = 0


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment as the processor has it. `failure`: its reason, in its code."""

    payment_id: str
    status: PaymentStatus
    amount_cents: int
    topup_id: bytes | None = None
    failure: str = ""
    receipt_url: str = ""
    card: Card | None = None


@dataclass(frozen=True, slots=True)
class CheckoutState:
    """A checkout as the processor has it; `card` where one was saved without paying."""

    checkout_id: str
    is_open: bool
    topup_id: bytes | None = None
    account_id: str = ""
    payment: Payment | None = None
    card: Card | None = None


@dataclass(frozen=True, slots=True)
class RefundRecord:
    """A refund as the processor has it; `refund_id` is ours in hex, empty where it is not ours."""

    processor_id: str
    refund_id: str
    payment_id: str
    amount_cents: int
    status: PaymentStatus
    failure: str = ""


class ChargebackStatus(StrEnum):
    """How far a card holder's complaint has come."""

    OPEN = "open"
    WON = "won"
    """The money is ours again."""
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class ChargebackRecord:
    """A card holder's complaint as the processor has it; `has_taken`: the money has left us."""

    dispute_id: str
    payment_id: str
    amount_cents: int
    status: ChargebackStatus
    reason: str
    has_taken: bool


@dataclass(frozen=True, slots=True)
class ProcessorTransaction:
    """One change of our balance at the processor: `net_cents` = amount - fee.

    `subject`: what it is about in our terms, so that the book can be asked for it: a top-up's, a
    refund's or a payout's id, or the processor's id of a chargeback; empty where it is not ours.
    """

    transaction_id: str
    kind: str
    amount_cents: int
    fee_cents: int
    net_cents: int
    created_at_s: int
    is_available: bool
    subject: str = ""


@dataclass(frozen=True, slots=True)
class ProcessorEvent:
    """Something has happened there. It is a hint: the object is fetched before it is believed."""

    event_id: str
    kind: str
    object_id: str
    account: str
    """The connected account it happened to; empty for our own."""
    payload: bytes
