"""Errors of `payments`, and what a buyer is told of the processor's.

MarketError
├─ AmountNotWhole 400          the processor in use knows cents only
├─ EventRefused 400            a webhook that nobody is known to have signed
├─ CardDeclined 402            the processor will not take the money
├─ TopupLimit 403              more than this account may pay in yet
├─ RefundUnknown 404
├─ NoCard 409                  auto-recharge needs a saved card
├─ NotRefundable 409           never paid, or given back already
└─ ProcessorUnavailable 503    no answer from the processor; nothing was credited
"""

from collections.abc import Iterator
from contextlib import contextmanager

from marketplace.errors import MarketError
from marketplace.payments.processor import ProcessorError, ProcessorRefused
from protocol.money import Nanos, format_usd

__all__ = [
    "AmountNotWhole",
    "CardDeclined",
    "EventRefused",
    "NoCard",
    "NotRefundable",
    "ProcessorUnavailable",
    "RefundUnknown",
    "TopupLimit",
    "asking",
]

RETRY_AFTER_S = 10
"""When a buyer may try again: a processor that is busy is so for seconds."""


class AmountNotWhole(MarketError):
    """The processor in use knows cents only."""

    status_code, code = 400, "amount_not_whole"

    def __init__(self, granularity_nanos: Nanos) -> None:
        super().__init__(
            f"The amount is no multiple of {granularity_nanos} nanos.",
            hint="Give whole cents.",
            details={"granularity_nanos": granularity_nanos},
        )


class EventRefused(MarketError):
    """A webhook that nobody is known to have signed."""

    status_code, code = 400, "event_unverified"


class CardDeclined(MarketError):
    """The processor will not take the money; `reason` is its code."""

    status_code, code = 402, "card_declined"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, hint="Use another card.", details={"reason": reason})


class TopupLimit(MarketError):
    """More than this account may pay in yet."""

    status_code, code = 403, "topup_limit"

    def __init__(self, amount_nanos_max: Nanos) -> None:
        super().__init__(
            f"This account may pay in {format_usd(amount_nanos_max)} now.",
            hint="The limit grows with what was paid before and with time.",
            details={"amount_nanos_max": amount_nanos_max},
        )


class RefundUnknown(MarketError):
    """No refund has that id, or it is another account's."""

    status_code, code = 404, "refund_unknown"


class NoCard(MarketError):
    """Auto-recharge needs a saved card."""

    status_code, code = 409, "no_card"

    def __init__(self) -> None:
        super().__init__("No card is saved.", hint="Save one first: POST /v1/billing/card.")


class NotRefundable(MarketError):
    """Never paid, or given back already."""

    status_code, code = 409, "not_refundable"


class ProcessorUnavailable(MarketError):
    """No answer from the processor; nothing was credited."""

    status_code, code = 503, "processor_unavailable"

    def __init__(self) -> None:
        super().__init__("The payment processor does not answer.", hint="Try again later.")
        self.headers["Retry-After"] = str(RETRY_AFTER_S)


@contextmanager
def asking() -> Iterator[None]:
    """Around a call for a buyer who waits: what the processor says, as this API tells it."""
    try:
        yield
    except ProcessorRefused as error:
        raise CardDeclined(error.code, error.message) from error
    except ProcessorError as error:
        raise ProcessorUnavailable from error
