"""What the marketplace asks of a payment processor, whoever it is. Amounts here are whole cents.

Money in: a checkout that the buyer pays outside, or a card that was saved there. Money out: a
transfer to a provider's own account at the processor. Only what the processor reports credits or
pays anybody, and the same report twice counts once. Every call may take seconds and is never made
inside a transaction. Every request that moves money carries an idempotency key of ours, so that
sending it again is safe for as long as the processor remembers it (24 hours).

Errors: `ProcessorRefused` is a definite no; `OutcomeUnknown` means it may have happened: look it up
before anything is sent again; `ProcessorBusy` means that it did not happen and may be sent again.
"""

from dataclasses import dataclass
from typing import Protocol

from protocol.errors import PieceworkError
from protocol.money import Nanos

__all__ = [
    "NANOS_PER_CENT",
    "OutcomeUnknown",
    "PaymentEvent",
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


@dataclass(frozen=True, slots=True)
class PaymentEvent:
    """The processor says: this top-up is paid."""

    event_id: str
    """The processor's own; the same event may be told more than once."""
    topup_id: bytes
    amount_nanos: Nanos


class Processor(Protocol):
    """Where money comes from."""

    @property
    def name(self) -> str:
        """As `GET /v1/market` shows it: `test` or `stripe`."""

    def create_checkout(self, topup_id: bytes, amount_nanos: Nanos) -> str:
        """The URL where the buyer pays; again for the same top-up gives a checkout for it again."""


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

    def create_recipient(self, account_id: str, email: str) -> str:
        """The processor's id of a new recipient for this account; the same again for the same."""

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
