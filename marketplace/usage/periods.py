"""Days and months in UTC as unix seconds. Pure."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from marketplace.usage.errors import PeriodInvalid

__all__ = ["DAYS_MAX", "Period", "month_of", "months_since", "period_of"]

DAYS_MAX = 366
"""Of one answer: a year by day."""
MONTHS_MAX = 120
"""Ten years of invoices in one list."""
_DAYS_DEFAULT = 30
_MONTH = re.compile(r"\d{4}-(?:0[1-9]|1[0-2])")


@dataclass(frozen=True, slots=True)
class Period:
    """From the first day to the last, both included."""

    first: date
    last: date

    @property
    def start_s(self) -> int:
        return _seconds(self.first)

    @property
    def end_s(self) -> int:
        """The first second behind it."""
        return _seconds(self.last + timedelta(days=1))


def period_of(first: str | None, last: str | None, *, now_s: int) -> Period:
    """`YYYY-MM-DD` both; the last 30 days where none is given. Raises PeriodInvalid."""
    end = _date(last) if last else datetime.fromtimestamp(now_s, UTC).date()
    start = _date(first) if first else end - timedelta(days=_DAYS_DEFAULT - 1)
    if not 0 <= (end - start).days < DAYS_MAX:
        raise PeriodInvalid(
            f"{start} to {end} is no period of at most {DAYS_MAX} days.",
            hint="Give start and end as YYYY-MM-DD.",
        )
    return Period(start, end)


def month_of(number: str) -> Period:
    """`2026-11`; raises PeriodInvalid."""
    if not _MONTH.fullmatch(number) or number < "1971":
        raise PeriodInvalid(f"'{number[:16]}' is no month.", hint="Write 2026-11.")
    first = date.fromisoformat(f"{number}-01")
    following = (first + timedelta(days=31)).replace(day=1)
    return Period(first, following - timedelta(days=1))


def months_since(first_s: int, now_s: int) -> list[str]:
    """Numbers of the months from that moment to now, the newest first, MONTHS_MAX at most."""
    month = datetime.fromtimestamp(now_s, UTC).date().replace(day=1)
    oldest = datetime.fromtimestamp(first_s, UTC).date().replace(day=1)
    numbers: list[str] = []
    while month >= oldest and len(numbers) < MONTHS_MAX:
        numbers.append(f"{month:%Y-%m}")
        month = (month - timedelta(days=1)).replace(day=1)
    return numbers


def _date(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise PeriodInvalid(f"'{text[:16]}' is no day.", hint="Write 2026-11-21.") from None
    if not 1971 <= day.year <= 9000:
        raise PeriodInvalid(f"'{text[:16]}' is out of range.", hint="Write 2026-11-21.")
    return day


def _seconds(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
