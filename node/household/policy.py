"""Whether a node takes work now, and every reason why not. Pure."""

from dataclasses import dataclass
from datetime import datetime

from node.household.hours import is_open, next_change
from node.household.limits import Limits

__all__ = ["BUSY_QUIET_S", "PAUSED_FOR_GOOD", "Decision", "Situation", "decide"]

PAUSED_FOR_GOOD = 2**62
"""`paused_until_s` of a pause without an end."""
BUSY_QUIET_S = 120
"""After the owner stops: a pause in typing is not the end of the work."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What is looked at. `now` has the machine's local time zone."""

    now: datetime
    month_bytes: int
    """Sent and received in this calendar month."""
    quiet_s: float | None
    """Since the owner last kept the machine busy; None where nobody looks."""


@dataclass(frozen=True, slots=True)
class Decision:
    """`reasons`: sentences for the owner, none where work is taken. `until`: when it may change."""

    takes_work: bool
    reasons: tuple[str, ...] = ()
    until: datetime | None = None


def decide(limits: Limits, situation: Situation) -> Decision:
    """All limits together: each that forbids work gives its reason."""
    reasons: list[str] = []
    until: datetime | None = None
    now = situation.now
    if limits.paused_until_s > now.timestamp():
        if limits.paused_until_s >= PAUSED_FOR_GOOD:
            reasons.append("paused by hand: 'piecework resume' ends it")
        else:
            until = datetime.fromtimestamp(limits.paused_until_s, now.tzinfo)
            reasons.append(f"paused by hand until {until:%a %H:%M}")
    if not is_open(limits.hours, now):
        opens = next_change(limits.hours, now)
        until = max(filter(None, (until, opens)), default=None)
        reasons.append(f"outside the hours; next at {opens:%a %H:%M}" if opens else "outside hours")
    if limits.data_cap_bytes and situation.month_bytes >= limits.data_cap_bytes:
        reasons.append(
            f"the month's data cap is used up "
            f"({situation.month_bytes >> 30} of {limits.data_cap_bytes >> 30} GiB)"
        )
    is_used = situation.quiet_s is not None and situation.quiet_s < BUSY_QUIET_S
    if limits.pause_while_busy and is_used:
        reasons.append("the machine is in use")
    return Decision(not reasons, tuple(reasons), until)
