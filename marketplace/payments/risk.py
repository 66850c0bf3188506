"""How much an account may pay in, by what it has paid before: a stolen card is worth little here.

Pure policy. A card is complained about within weeks, so an account that has paid a while ago and
was not complained about has earned more room. The test processor takes no money and is not limited.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from protocol.money import NANOS_PER_USD, Nanos

__all__ = [
    "DAY_S",
    "STEPS",
    "PaidHistory",
    "Step",
    "daily_nanos_max",
    "left_today_nanos",
    "wants_authentication",
]

DAY_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class Step:
    """From this history on, so much may be paid in within a day."""

    paid_nanos: Nanos
    age_s: int
    """Of the first payment."""
    daily_nanos_max: Nanos


STEPS: Sequence[Step] = (
    # a thief's first try: what a pool can lose to a stranger in a day
    Step(0, 0, 100 * NANOS_PER_USD),
    # a week is when banks block most stolen cards
    Step(20 * NANOS_PER_USD, 7 * DAY_S, 500 * NANOS_PER_USD),
    # a card's statement has come once, and nobody complained
    Step(200 * NANOS_PER_USD, 35 * DAY_S, 2_000 * NANOS_PER_USD),
    # most chargebacks come within ninety days
    Step(1_000 * NANOS_PER_USD, 90 * DAY_S, 10_000 * NANOS_PER_USD),
)


@dataclass(frozen=True, slots=True)
class PaidHistory:
    """What an account has paid in so far, less what was charged back."""

    paid_nanos: Nanos
    first_paid_at_s: int | None
    today_nanos: Nanos
    """Paid within the last day, or opened then and not paid yet; what can still be paid counts."""
    chargebacks: int


def daily_nanos_max(history: PaidHistory, *, now_s: int) -> Nanos:
    """What may be paid in within a day; whoever's card was complained about begins again."""
    allowed = STEPS[0].daily_nanos_max
    if history.first_paid_at_s is None or history.chargebacks:
        return allowed
    age_s = now_s - history.first_paid_at_s
    for step in STEPS:
        if history.paid_nanos >= step.paid_nanos and age_s >= step.age_s:
            allowed = step.daily_nanos_max
    return allowed


def left_today_nanos(history: PaidHistory, *, now_s: int) -> Nanos:
    """What of that is left."""
    return max(0, daily_nanos_max(history, now_s=now_s) - history.today_nanos)


def wants_authentication(history: PaidHistory) -> bool:
    """Whether the bank is asked to make sure of the holder: with the first payment, or after one

    that was complained about. The holder who was asked can hardly say that it was not they.
    """
    return history.first_paid_at_s is None or history.chargebacks > 0
