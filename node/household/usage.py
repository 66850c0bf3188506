"""How much a node has sent and received in a calendar month, kept over restarts.

A counter of the socket is read again and again; what it grew by is added to the month in which it
was read. A crash loses what came since the last save, a minute at most.
"""

import json
from datetime import datetime
from pathlib import Path

__all__ = ["USAGE_FILE", "MonthlyUsage"]

USAGE_FILE = "usage.json"
MONTHS_KEPT = 13
"""A year to look back on, and the month under way."""


class MonthlyUsage:
    """Owned by one node. Months are local ones, as a provider of internet access counts them."""

    def __init__(self, home: Path) -> None:
        self._path = home / USAGE_FILE
        self._months = _read(self._path)
        self._last: int | None = None

    def month_bytes(self, now: datetime) -> int:
        """Of the month that `now` is in."""
        return self._months.get(_month(now), 0)

    def note(self, counter_bytes: int, now: datetime) -> int:
        """The socket's counter as it is; gives this month's sum. A smaller one has begun anew."""
        grown = counter_bytes if self._last is None else counter_bytes - self._last
        self._last = counter_bytes
        month = _month(now)
        self._months[month] = self._months.get(month, 0) + max(grown, 0)
        return self._months[month]

    def save(self) -> None:
        """To be called every minute, and at the end."""
        kept = dict(sorted(self._months.items())[-MONTHS_KEPT:])
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(kept, indent=2) + "\n")
        temporary.replace(self._path)


def _month(now: datetime) -> str:
    return f"{now:%Y-%m}"


def _read(path: Path) -> dict[str, int]:
    try:
        data = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        # a lost count starts again: a cap that is reached late is better than a node that is down
        return {}
    if not isinstance(data, dict):
        return {}
    return {str(month): count for month, count in data.items() if type(count) is int and count >= 0}
