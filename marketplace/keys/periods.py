"""When a key's budget begins anew: never, or each day, week (Monday) or month, in UTC."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum

__all__ = ["Reset", "next_start_s", "period_start_s"]


class Reset(StrEnum):
    """How often what was spent is forgotten."""

    NEVER = "never"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


def period_start_s(reset: Reset, now_s: int) -> int:
    """When the period began that `now_s` is in; 0 where there is but one."""
    return 0 if reset is Reset.NEVER else int(_start(reset, now_s).timestamp())


def next_start_s(reset: Reset, now_s: int) -> int | None:
    """When the next begins; None where none does."""
    start = _start(reset, now_s)
    match reset:
        case Reset.NEVER:
            return None
        case Reset.DAY:
            start += timedelta(days=1)
        case Reset.WEEK:
            start += timedelta(days=7)
        case Reset.MONTH:
            # the 32nd day after a first is always of the next month
            start = (start + timedelta(days=32)).replace(day=1)
    return int(start.timestamp())


def _start(reset: Reset, now_s: int) -> datetime:
    day = datetime.fromtimestamp(now_s, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    match reset:
        case Reset.WEEK:
            return day - timedelta(days=day.weekday())
        case Reset.MONTH:
            return day.replace(day=1)
    return day
