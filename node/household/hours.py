"""Hours of the week in which a node may take work, in the machine's local time. Pure.

Written `22:00-07:00`, `mon-fri 22-7`, or `sat,sun 0-24`; several with `;` between them. Hours that
end before they begin go on into the next day.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from node.errors import ConfigInvalid

__all__ = ["HOURS_MAX", "Hours", "is_open", "next_change", "parse_hours", "text_of"]

HOURS_MAX = 28
"""Four a day: more is no timetable that anybody keeps in mind."""

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES = 24 * 60
_FORM = re.compile(
    r"(?:(?P<days>[a-z,-]+)\s+)?(?P<h1>\d{1,2})(?::(?P<m1>\d{2}))?\s*-\s*(?P<h2>\d{1,2})(?::(?P<m2>\d{2}))?"
)
_HINT = "Write hours as 22:00-07:00, or 'mon-fri 22-7; sat,sun 0-24'."


@dataclass(frozen=True, slots=True)
class Hours:
    """On these days (0 is Monday) from `start_min` on; `end_min` above a day's 1440: the next."""

    days: frozenset[int]
    start_min: int
    end_min: int


def parse_hours(text: str) -> tuple[Hours, ...]:
    """Raises ConfigInvalid; an empty text is always."""
    parts = [part.strip() for part in text.lower().split(";") if part.strip()]
    if len(parts) > HOURS_MAX:
        raise ConfigInvalid(f"{len(parts)} spans of hours are more than {HOURS_MAX}.", hint=_HINT)
    return tuple(_parse(part) for part in parts)


def text_of(hours: tuple[Hours, ...]) -> str:
    """As `parse_hours` takes it."""
    return "; ".join(_text(span) for span in hours)


def is_open(hours: tuple[Hours, ...], now: datetime) -> bool:
    """Whether a node may take work; without any hours it always may."""
    return not hours or any(_covers(span, now) for span in hours)


def next_change(hours: tuple[Hours, ...], now: datetime) -> datetime | None:
    """When `is_open` changes next, to the minute; None if it never does."""
    current = is_open(hours, now)
    start = now.replace(second=0, microsecond=0)
    # an edge is a span's start or end on one of the days around
    edges = sorted(
        start.replace(hour=0, minute=0) + timedelta(days=day, minutes=minute)
        for day in range(-1, 9)
        for span in hours
        for minute in (span.start_min, span.end_min)
    )
    return next((edge for edge in edges if edge > now and is_open(hours, edge) != current), None)


def _covers(span: Hours, now: datetime) -> bool:
    minute = now.hour * 60 + now.minute
    today, yesterday = now.weekday(), (now.weekday() - 1) % 7
    if today in span.days and span.start_min <= minute < span.end_min:
        return True
    return yesterday in span.days and minute + _DAY_MINUTES < span.end_min


def _parse(part: str) -> Hours:
    match = _FORM.fullmatch(part)
    if match is None:
        raise ConfigInvalid(f"'{part[:40]}' are no hours.", hint=_HINT)
    start = _minutes(match["h1"], match["m1"], part)
    end = _minutes(match["h2"], match["m2"], part)
    if start == end or start >= _DAY_MINUTES:
        raise ConfigInvalid(f"'{part[:40]}' has no length.", hint=_HINT)
    return Hours(
        _parse_days(match["days"], part), start, end if end > start else end + _DAY_MINUTES
    )


def _minutes(hour: str, minute: str | None, part: str) -> int:
    total = int(hour) * 60 + int(minute or 0)
    if total > _DAY_MINUTES or int(minute or 0) > 59:
        raise ConfigInvalid(f"'{part[:40]}' has no such time of day.", hint=_HINT)
    return total


def _parse_days(text: str | None, part: str) -> frozenset[int]:
    if text is None:
        return frozenset(range(7))
    days: set[int] = set()
    for item in text.split(","):
        first, dash, last = item.partition("-")
        last = last if dash else first
        if first not in _DAYS or last not in _DAYS:
            raise ConfigInvalid(f"'{part[:40]}' names no days.", hint=_HINT)
        begin, end = _DAYS.index(first), _DAYS.index(last)
        days.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    return frozenset(days)


def _text(span: Hours) -> str:
    days = "" if len(span.days) == 7 else ",".join(_DAYS[day] for day in sorted(span.days)) + " "
    end = span.end_min if span.end_min <= _DAY_MINUTES else span.end_min - _DAY_MINUTES
    return (
        f"{days}{span.start_min // 60:02d}:{span.start_min % 60:02d}-{end // 60:02d}:{end % 60:02d}"
    )
