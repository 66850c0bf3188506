"""Stripe's objects in our words; whatever is missing in them is empty here."""

import stripe

from marketplace.payments.records import (
    Card,
    ChargebackRecord,
    ChargebackStatus,
    Payment,
    PaymentStatus,
    RefundRecord,
)

__all__ = [
    "ACCOUNT_KEY",
    "REFUND_KEY",
    "TOPUP_KEY",
    "chargeback_of",
    "id_of",
    "payment_of",
    "refund_of",
    "saved_card_of",
    "subject_in",
    "topup_in",
]

TOPUP_KEY = "topup_id"
REFUND_KEY = "refund_id"
ACCOUNT_KEY = "account_id"
_WON = frozenset({"won", "warning_closed", "prevented"})
_ID_CHARACTERS = 32


def id_of(value: object) -> str:
    """The id of something that may be expanded, an id, or absent."""
    if value is None:
        return ""
    return value if isinstance(value, str) else str(getattr(value, "id", ""))


def subject_in(metadata: object, key: str) -> str:
    """Our id in an object's metadata, as hex; empty where there is none of the right form."""
    value = None
    if isinstance(metadata, stripe.StripeObject) and key in metadata:
        value = metadata[key]
    if not isinstance(value, str) or len(value) != _ID_CHARACTERS:
        return ""
    return value if all(c in "0123456789abcdef" for c in value) else ""


def topup_in(metadata: object) -> bytes | None:
    """Our top-up's id, where the object is about one."""
    found = subject_in(metadata, TOPUP_KEY)
    return bytes.fromhex(found) if found else None


def payment_of(intent: stripe.PaymentIntent) -> Payment:
    """`latest_charge` expanded, if it is to have a receipt and a card."""
    charge = intent.latest_charge
    failure = intent.last_payment_error
    reason = (failure.decline_code or failure.code or "card_declined") if failure else ""
    over = intent.status in ("canceled", "requires_payment_method") or (
        # nobody is there to authenticate a charge off-session
        intent.status == "requires_action" and reason != ""
    )
    status = PaymentStatus.FAILED if over else PaymentStatus.PENDING
    if intent.status == "succeeded":
        status, reason = PaymentStatus.SUCCEEDED, ""
    amount = intent.amount_received if status is PaymentStatus.SUCCEEDED else intent.amount
    expanded = charge if isinstance(charge, stripe.Charge) else None
    return Payment(
        payment_id=intent.id,
        status=status,
        amount_cents=amount,
        topup_id=topup_in(intent.metadata),
        failure=reason,
        receipt_url=(expanded.receipt_url or "") if expanded else "",
        card=_charged_card(intent, expanded) if expanded else None,
    )


def _charged_card(intent: stripe.PaymentIntent, charge: stripe.Charge) -> Card | None:
    details = charge.payment_method_details
    card = details.card if details else None
    if card is None:
        return None
    return Card(
        # only a card that may be charged again has a name
        card_id=id_of(intent.payment_method) if intent.setup_future_usage else "",
        brand=card.brand or "",
        last4=card.last4 or "",
        expiry_month=card.exp_month,
        expiry_year=card.exp_year,
        fingerprint=card.fingerprint or "",
    )


def saved_card_of(method: object) -> Card | None:
    """A payment method, expanded; None for an id or another kind."""
    if not isinstance(method, stripe.PaymentMethod) or method.card is None:
        return None
    card = method.card
    return Card(
        card_id=method.id,
        brand=card.brand,
        last4=card.last4,
        expiry_month=card.exp_month,
        expiry_year=card.exp_year,
        fingerprint=card.fingerprint or "",
    )


def refund_of(refund: stripe.Refund) -> RefundRecord:
    match refund.status:
        case "succeeded":
            status = PaymentStatus.SUCCEEDED
        case "failed" | "canceled":
            status = PaymentStatus.FAILED
        case _:
            status = PaymentStatus.PENDING
    return RefundRecord(
        processor_id=refund.id,
        refund_id=subject_in(refund.metadata, REFUND_KEY),
        payment_id=id_of(refund.payment_intent),
        amount_cents=refund.amount,
        status=status,
        failure=refund.failure_reason or "",
    )


def chargeback_of(dispute: stripe.Dispute) -> ChargebackRecord:
    """A warning takes no money; `balance_transactions` says whether any was taken."""
    status = ChargebackStatus.OPEN
    if dispute.status in _WON:
        status = ChargebackStatus.WON
    elif dispute.status == "lost":
        status = ChargebackStatus.LOST
    return ChargebackRecord(
        dispute_id=dispute.id,
        payment_id=id_of(dispute.payment_intent),
        amount_cents=dispute.amount,
        status=status,
        reason=dispute.reason,
        has_taken=bool(dispute.balance_transactions),
    )
