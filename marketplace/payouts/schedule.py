"""When an account is paid and from what amount: pure."""

from dataclasses import dataclass
from enum import StrEnum

from marketplace.payments.processor import NANOS_PER_CENT
from protocol.money import Nanos

__all__ = [
    "MINIMUM_CENTS",
    "MINIMUM_CENTS_MAX",
    "MINIMUM_CENTS_MIN",
    "PAYOUT_CENTS_MAX",
    "Due",
    "PayoutTerms",
    "Schedule",
    "due_at",
    "payout_cents",
]

MINIMUM_CENTS = 1000
"""$10: an active account costs the marketplace about $2 a month and $0.25 a payout."""
MINIMUM_CENTS_MIN = 100
"""$1: below it the processor's fee would be most of the payout."""
MINIMUM_CENTS_MAX = 1_000_000
"""$10 000: who wants to wait for more chooses `manual`."""
PAYOUT_CENTS_MAX = 99_999_999
"""The largest amount that processors take in one transfer; the rest waits for the next payout."""

_DAY_S = 86_400
WEEK_S = 7 * _DAY_S
_FIRST_MONDAY_S = 4 * _DAY_S
"""1970-01-05: weeks begin on Monday, 00:00 UTC."""
RETRY_AFTER_S = 6 * 3600
"""After a refusal nothing is planned so long: our balance at the processor, or what it misses from
the provider, does not change in minutes."""


class Schedule(StrEnum):
    """Who begins a payout."""

    WEEKLY = "weekly"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class PayoutTerms:
    """What an account has chosen."""

    schedule: Schedule = Schedule.WEEKLY
    minimum_cents: int = MINIMUM_CENTS


@dataclass(frozen=True, slots=True)
class Due:
    """Which accounts may be paid now by the weekly schedule."""

    week_s: int
    """Not those whose payout was begun since then: the start of this week."""
    refused_since_s: int
    """Nor those to whom one was refused since then."""
    minimum_cents: int
    """Of accounts that have chosen no other."""


def payout_cents(payable_nanos: Nanos, minimum_cents: int) -> int:
    """Whole cents that a payout may have now; 0 below the minimum. The remainder stays payable."""
    cents = min(payable_nanos // NANOS_PER_CENT, PAYOUT_CENTS_MAX)
    return cents if cents >= minimum_cents else 0


def due_at(now_s: int) -> Due:
    """What a weekly payout waits for: its week, and a while after a refusal.

    A payout that was refused does not use up its week.
    """
    week_s = now_s - (now_s - _FIRST_MONDAY_S) % WEEK_S
    return Due(week_s, now_s - RETRY_AFTER_S, MINIMUM_CENTS)
