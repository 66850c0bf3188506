"""Each limit alone forbids work and says why; together all reasons are told."""

from datetime import UTC, datetime

import pytest

from node.household.hours import parse_hours
from node.household.limits import Limits
from node.household.policy import BUSY_QUIET_S, PAUSED_FOR_GOOD, Situation, decide

NOON = datetime(2026, 11, 18, 12, tzinfo=UTC)


def situation(month_bytes=0, quiet_s=None, now=NOON) -> Situation:
    return Situation(now, month_bytes, quiet_s)


def test_without_limits_work_is_taken():
    assert decide(Limits(), situation(10**15, 0.0)).takes_work


@pytest.mark.parametrize(
    ("limits", "seen", "reason"),
    [
        (Limits(hours=parse_hours("22-7")), situation(), "outside the hours; next at Wed 22:00"),
        (Limits(data_cap_bytes=1 << 30), situation(1 << 30), "data cap is used up (1 of 1 GiB)"),
        (Limits(pause_while_busy=True), situation(quiet_s=BUSY_QUIET_S - 1), "in use"),
        (Limits(paused_until_s=PAUSED_FOR_GOOD), situation(), "piecework resume"),
        (Limits(paused_until_s=int(NOON.timestamp()) + 3600), situation(), "until Wed 13:00"),
    ],
)
def test_each_limit_says_why(limits, seen, reason):
    decision = decide(limits, seen)
    assert not decision.takes_work
    assert reason in decision.reasons[0]


@pytest.mark.parametrize(
    ("limits", "seen"),
    [
        (Limits(hours=parse_hours("9-17")), situation()),
        (Limits(data_cap_bytes=1 << 30), situation((1 << 30) - 1)),
        (Limits(pause_while_busy=True), situation(quiet_s=BUSY_QUIET_S)),
        (Limits(pause_while_busy=True), situation(quiet_s=None)),
        (Limits(paused_until_s=int(NOON.timestamp())), situation()),
    ],
)
def test_at_the_limit_work_is_taken(limits, seen):
    assert decide(limits, seen).takes_work


def test_all_reasons_are_told_and_the_latest_end():
    limits = Limits(
        hours=parse_hours("22-7"), data_cap_bytes=1, paused_until_s=int(NOON.timestamp()) + 60
    )
    decision = decide(limits, situation(5))
    assert len(decision.reasons) == 3
    assert decision.until == NOON.replace(hour=22)
