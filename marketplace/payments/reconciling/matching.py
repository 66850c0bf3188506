"""Which movement in the book a transaction at the processor is, and what is posted by its word.

Pure. A transaction of a kind that only the processor knows of (its fees, the operator's own moves)
is posted from what it says; every other must be in the book already.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ledger.accounts import AccountCode
from marketplace.payments.processor import NANOS_PER_CENT
from marketplace.payments.records import ProcessorTransaction
from protocol.money import Nanos

__all__ = ["Expected", "Posting", "book_codes", "expected", "postings"]

_PENDING = AccountCode.PROCESSOR_PENDING
_AVAILABLE = AccountCode.PROCESSOR_AVAILABLE

_CODES: Mapping[tuple[str, bool], str] = {
    # kind at the processor, whether it brings money -> code in the book
    ("charge", True): "topup",
    ("payment", True): "topup",
    ("refund", False): "refund",
    ("payment_refund", False): "refund",
    ("refund_failure", True): "refund_failed",
    ("payment_failure_refund", True): "refund_failed",
    ("adjustment", False): "chargeback",
    ("adjustment", True): "chargeback_won",
    ("transfer", False): "payout_sent",
    ("transfer_refund", True): "payout_reversed",
    ("transfer_failure", True): "payout_reversed",
}
_BANK = frozenset({"payout", "payout_cancel", "payout_failure", "topup", "topup_reversal"})
"""Between the operator's bank and its balance at the processor."""
_FEES = frozenset(
    {"stripe_fee", "stripe_fx_fee", "network_cost", "tax_fee", "application_fee", "contribution"}
)
_PARTS: Mapping[str, tuple[str, ...]] = {
    "chargeback": ("chargeback", "chargeback_loss"),
    "chargeback_won": ("chargeback_won", "chargeback_won_loss"),
}


@dataclass(frozen=True, slots=True)
class Expected:
    """The movement in the book: its code and ref; both empty where it can be none of ours."""

    code: str
    ref: str


@dataclass(frozen=True, slots=True)
class Posting:
    """A movement that is posted on the processor's word; ref: the transaction's id."""

    debit: AccountCode
    credit: AccountCode
    amount_nanos: Nanos
    code: str


def book_codes(code: str) -> tuple[str, ...]:
    """The codes whose movements together are this one transaction."""
    return _PARTS.get(code, (code,))


def expected(transaction: ProcessorTransaction) -> Expected:
    """Where to look for it in the book."""
    if transaction.kind in _BANK:
        return Expected("bank", transaction.transaction_id)
    if transaction.kind in _FEES:
        return Expected("processor_cost", transaction.transaction_id)
    code = _CODES.get((transaction.kind, transaction.amount_cents > 0), "")
    subject = transaction.subject if code else ""
    return Expected(code if subject else "", subject)


def postings(transaction: ProcessorTransaction, *, was_available: bool) -> list[Posting]:
    """What to post; `was_available`: its money was free when it was last looked at.

    Money of a buyer's payment is pending first; everything else is taken from, or given to, what is
    available, except what the operator brings in while it is on its way.
    """
    made: list[Posting] = []
    place = _PENDING if _begins_pending(transaction) else _AVAILABLE
    amount = transaction.amount_cents * NANOS_PER_CENT
    if transaction.kind in _BANK and amount:
        made.append(_directed(place, AccountCode.BANK, amount, "bank"))
    elif transaction.kind in _FEES and amount:
        made.append(_directed(place, AccountCode.PROCESSOR_FEES, amount, "processor_cost"))
    if fee := transaction.fee_cents * NANOS_PER_CENT:
        made.append(_directed(place, AccountCode.PROCESSOR_FEES, -fee, "processor_fee"))
    net = transaction.net_cents * NANOS_PER_CENT
    if place is _PENDING and transaction.is_available and not was_available and net:
        made.append(_directed(_AVAILABLE, _PENDING, net, "available"))
    return made


def _begins_pending(transaction: ProcessorTransaction) -> bool:
    return transaction.kind in ("charge", "payment", "topup")


def _directed(place: AccountCode, other: AccountCode, amount: Nanos, code: str) -> Posting:
    """`amount` into `place` out of `other`; below zero the other way."""
    if amount > 0:
        return Posting(place, other, amount, code)
    return Posting(other, place, -amount, code)
