"""What the marketplace asks of a payment processor, whoever it is. Amounts here are whole cents.

Money in: a checkout that the buyer pays outside, or a card that was saved there. Money out: a
transfer to a provider's own account at the processor. Only what the processor reports credits or
pays anybody, and the same report twice counts once. Every call may take seconds and is never made
inside a transaction. Every request that moves money carries an idempotency key of ours, so that
sending it again is safe for as long as the processor remembers it (24 hours).

Errors: `ProcessorRefused` is a definite no; `OutcomeUnknown` means it may have happened: look it up
before anything is sent again; `ProcessorBusy` means that it did not happen and may be sent again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from marketplace.payments.records import (
    ChargebackRecord,
    Checkout,
    CheckoutState,
    Payment,
    ProcessorEvent,
    ProcessorTransaction,
    RefundRecord,
)
from protocol.errors import PieceworkError
from protocol.money import Nanos

__all__ = [
    "NANOS_PER_CENT",
    "EventUnverified",
    "OutcomeUnknown",
    "PayoutProcessor",
    "Processor",
    "ProcessorBusy",
    "ProcessorError",
    "ProcessorRefused",
    "RecipientState",
    "TransferRecord",
]

NANOS_PER_CENT = 10_000_000


class ProcessorError(PieceworkError):
    """The payment processor did not do what was asked."""


class ProcessorRefused(ProcessorError):
    """A definite no; `code` is the processor's own (`card_declined`, `balance_insufficient` …)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class OutcomeUnknown(ProcessorError):
    """No answer, or an answer that says nothing: it may have happened."""


class ProcessorBusy(ProcessorError):
    """Nothing happened: too many requests, or the same one is being worked on; ask again later."""


class EventUnverified(ProcessorError):
    """A webhook whose signature is wrong, missing or too old: nobody knows who sent it."""


class Processor(Protocol):
    """Where money comes from."""

    @property
    def name(self) -> str:
        """As `GET /v1/market` shows it: `test` or `stripe`."""

    @property
    def granularity_nanos(self) -> Nanos:
        """Amounts must be multiples of this."""

    def create_customer(self, account_id: str) -> str:
        """The processor's name for an account; the same again for the same."""

    def create_checkout(
        self,
        topup_id: bytes,
        amount_nanos: Nanos,
        *,
        customer: str = "",
        save_card: bool = False,
        strong_authentication: bool = False,
        attempt: int = 1,
    ) -> Checkout:
        """Where the buyer pays; the same again for the same attempt."""

    def create_card_checkout(self, account_id: str, setup_id: bytes, customer: str) -> Checkout:
        """Where the buyer saves a card without paying."""

    def find_checkout(self, checkout_id: str) -> CheckoutState:
        """What became of it."""

    def charge_card(
        self, topup_id: bytes, amount_nanos: Nanos, *, customer: str, card_id: str
    ) -> Payment:
        """Charge a saved card while the buyer is away. Idempotency key: the top-up's id."""

    def find_payment(self, payment_id: str) -> Payment:
        """One payment, by the processor's id."""

    def find_payments(self, topup_id: bytes, customer: str) -> list[Payment]:
        """Every payment of this top-up: the truth about what was charged."""

    def forget_card(self, card_id: str) -> None:
        """The card may not be charged again; again is no error."""

    def create_refund(self, refund_id: bytes, payment_id: str, amount_cents: int) -> RefundRecord:
        """Give back. Idempotency key: the refund's id."""

    def find_refunds(self, payment_id: str) -> list[RefundRecord]:
        """Every refund of this payment: the truth about what was given back."""

    def find_chargeback(self, dispute_id: str) -> ChargebackRecord:
        """A complaint, by the processor's id."""

    def find_refund(self, processor_id: str) -> RefundRecord:
        """One refund, by the processor's id."""

    def transactions(self, since_s: int) -> Iterator[ProcessorTransaction]:
        """Every change of our balance made since then, newest first."""

    def balance_cents(self) -> tuple[int, int]:
        """(pending, available)."""

    def read_event(self, payload: bytes, signature: str, *, now_s: int) -> ProcessorEvent:
        """What a webhook says; raises EventUnverified unless the processor signed it lately."""


@dataclass(frozen=True, slots=True)
class RecipientState:
    """A provider's account at the processor. `missing`: what it still has to tell, in its words."""

    recipient: str
    payouts_enabled: bool
    missing: tuple[str, ...] = ()
    bank_fingerprint: str = ""
    """The same for the same bank account, whoever's it is; empty where none is known."""


@dataclass(frozen=True, slots=True)
class TransferRecord:
    """A transfer as the processor has it."""

    transfer_id: str
    payout_id: str
    """Ours, in hex: its transfer group."""
    recipient: str
    amount_cents: int
    reversed_cents: int
    created_at_s: int


class PayoutProcessor(Protocol):
    """Where money goes out."""

    def create_recipient(self, account_id: str, email: str, country: str) -> str:
        """The processor's id of a new recipient for this account; the same again for the same.

        `country`: two capitals of ISO 3166-1, for good: in another country it is another recipient.
        Raises ProcessorRefused, with the reason, where the processor pays nobody there.
        """

    def onboarding_url(self, recipient: str) -> str:
        """Where the provider tells the processor who they are; single use, short-lived."""

    def recipient_state(self, recipient: str) -> RecipientState:
        """Whether money can go there."""

    def create_transfer(
        self, payout_id: str, amount_cents: int, recipient: str, *, attempt: int
    ) -> TransferRecord:
        """Send it. Idempotency key: payout id, and the attempt where that is above 1.

        Raises ProcessorRefused, ProcessorBusy, or OutcomeUnknown: then look it up.
        """

    def find_transfers(self, payout_id: str) -> list[TransferRecord]:
        """Every transfer of this payout's group: the truth about what was sent."""

    def available_cents(self) -> int:
        """What of our balance may be sent now; less than that is refused, never queued."""
