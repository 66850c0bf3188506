"""What the marketplace asks of a payment processor, whoever it is.

A processor turns a top-up into a checkout that the buyer pays outside, and later reports an event.
Only the event credits anybody, and the same event twice credits once.
"""

from dataclasses import dataclass
from typing import Protocol

from protocol.money import Nanos

__all__ = ["PaymentEvent", "Processor"]


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
        """As `GET /v1/market` shows it."""

    def create_checkout(self, topup_id: bytes, amount_nanos: Nanos) -> str:
        """The URL where the buyer pays; again for the same top-up gives a checkout for it again.

        May take seconds; never called inside a transaction.
        """
