"""Many sessions on one route over wide links: their total against one, and as links grow longer.

Sessions of one token a trip can have no more together than their number / the trip's time: 32 of
300 ms have 107 tokens/s, whatever the machines can do. So whether longer links cost anything is
asked of slow machines, where it is the rows that bound the total.
"""

from collections.abc import Iterable

from benchmarks.row import Row
from benchmarks.wan.measured import Measured

__all__ = ["rows", "tables"]

_measured = Measured("many")


def rows() -> Iterable[Row]:
    """Takes about two minutes; no rows where there can be no network namespace."""
    return _measured.rows


def tables() -> Iterable[str]:
    return _measured.tables
