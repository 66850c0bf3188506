"""How far an account is trusted, from what it has done: pure, with every number and its reason.

What is feared is cash-out: a stolen card becomes credit, the credit becomes earnings on the
thief's own machine, and the earnings become a payout before the card's owner complains. Time and
honest history are what such a thief does not have.
"""

from dataclasses import dataclass
from enum import StrEnum

from protocol.money import NANOS_PER_USD, Nanos

__all__ = [
    "CHARGEBACK_MEMORY_S",
    "CHARGEBACK_WINDOW_S",
    "DAY_S",
    "RIPE_AFTER_S",
    "History",
    "Tier",
    "tier_of",
]

DAY_S = 86_400

CHARGEBACK_WINDOW_S = 120 * DAY_S
"""A card's owner may dispute a payment this long; after it the money cannot be asked back."""

CHARGEBACK_MEMORY_S = 365 * DAY_S
"""A chargeback counts against an account this long: a card's year of statements."""

RIPE_AFTER_S = 30 * DAY_S
"""A payment counts as history once a monthly statement has been read without a complaint."""

GROWING_AGE_S = 30 * DAY_S
GROWING_PAID_NANOS = 50 * NANOS_PER_USD
"""One statement has passed, and more than a test of a stolen card was paid."""

TRUSTED_AGE_S = 180 * DAY_S
TRUSTED_PAID_NANOS = 500 * NANOS_PER_USD
"""Older than the chargeback window: part of such a history can no longer be disputed at all."""


class Tier(StrEnum):
    """How far an account is trusted."""

    NEW = "new"
    GROWING = "growing"
    TRUSTED = "trusted"


@dataclass(frozen=True, slots=True)
class History:
    """What an account has done so far."""

    age_s: int
    paid_nanos: Nanos
    """Ripe: top-ups and payouts older than RIPE_AFTER_S."""
    recent_chargebacks: int = 0
    """Within CHARGEBACK_MEMORY_S."""


def tier_of(history: History) -> Tier:
    """One chargeback makes an account new again: what was earned by time is lost at once."""
    if history.recent_chargebacks:
        return Tier.NEW
    if history.age_s >= TRUSTED_AGE_S and history.paid_nanos >= TRUSTED_PAID_NANOS:
        return Tier.TRUSTED
    if history.age_s >= GROWING_AGE_S and history.paid_nanos >= GROWING_PAID_NANOS:
        return Tier.GROWING
    return Tier.NEW
