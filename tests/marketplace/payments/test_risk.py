"""What an account may pay in within a day, by its history."""

import pytest

from marketplace.payments.risk import (
    DAY_S,
    STEPS,
    PaidHistory,
    daily_nanos_max,
    wants_authentication,
)
from tests.marketplace.world import DOLLAR

NOW_S = 1_800_000_000


def past(dollars, days, chargebacks=0):
    first = None if days is None else NOW_S - days * DAY_S
    return PaidHistory(dollars * DOLLAR, first, 0, chargebacks)


@pytest.mark.parametrize(
    ("dollars", "days", "allowed"),
    [
        (0, None, 100),
        (99, 1, 100),
        (19, 400, 100),
        (20, 7, 500),
        (5_000, 7, 500),
        (200, 35, 2_000),
        (999, 400, 2_000),
        (1_000, 90, 10_000),
    ],
)
def test_room_grows_with_what_was_paid_and_with_time(dollars, days, allowed):
    assert daily_nanos_max(past(dollars, days), now_s=NOW_S) == allowed * DOLLAR


def test_after_a_chargeback_it_begins_again():
    history = past(5_000, 400, chargebacks=1)
    assert daily_nanos_max(history, now_s=NOW_S) == STEPS[0].daily_nanos_max
    assert wants_authentication(history)


def test_the_first_payment_is_authenticated():
    assert wants_authentication(past(0, None))
    assert not wants_authentication(past(5, 1))


def test_the_steps_only_grow():
    assert list(STEPS) == sorted(STEPS, key=lambda step: (step.paid_nanos, step.age_s))
    assert [s.daily_nanos_max for s in STEPS] == sorted(s.daily_nanos_max for s in STEPS)
