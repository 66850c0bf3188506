"""What Stripe's errors mean for us: refused, busy, or unknown. Nothing of stripe's passes here.

A 500 or a lost reply says nothing about what happened. Neither does a key that was used with other
parameters: what it was used for may have happened. A wrong API key did nothing, and an operator
will put it right, so whatever it was may be sent again.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import stripe

from marketplace.payments.processor import OutcomeUnknown, ProcessorBusy, ProcessorRefused

__all__ = ["talking"]

log = logging.getLogger(__name__)

_MESSAGE_CHARACTERS_MAX = 300


@contextmanager
def talking(what: str) -> Iterator[None]:
    """Around one call and the reading of its answer; `what` is said in every error."""
    try:
        yield
    except stripe.StripeError as error:
        raise _meaning(what, error) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise OutcomeUnknown(
            f"Stripe's answer to '{what}' cannot be read: {error}.", hint="Look it up."
        ) from error


def _meaning(what: str, error: stripe.StripeError) -> Exception:
    status = error.http_status
    said = (error.user_message or "").strip()[:_MESSAGE_CHARACTERS_MAX]
    if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
        log.error("Stripe does not accept the API key for '%s': %s", what, said)
        return ProcessorBusy(
            f"Stripe does not accept the API key for '{what}'.",
            hint="Check PIECEWORK_MARKET_STRIPE_API_KEY and what the key may do.",
        )
    if isinstance(error, stripe.RateLimitError) or status in (409, 429):
        return ProcessorBusy(f"Stripe is busy with '{what}': {said}", hint="Send it again later.")
    if isinstance(error, stripe.CardError):
        return ProcessorRefused(_decline(error), f"Stripe refused '{what}': {said}")
    if isinstance(error, stripe.IdempotencyError) or status is None or status >= 500:
        return OutcomeUnknown(f"Stripe did not say what became of '{what}'.", hint="Look it up.")
    if 400 <= status < 500:
        return ProcessorRefused(error.code or f"http_{status}", f"Stripe refused '{what}': {said}")
    return OutcomeUnknown(f"Stripe answered '{what}' with nothing we know.", hint="Look it up.")


def _decline(error: stripe.StripeError) -> str:
    """The bank's reason where it gave one, else Stripe's."""
    reason = getattr(error.error, "decline_code", None) if error.error else None
    return str(reason or error.code or "card_declined")
