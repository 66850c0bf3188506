"""Time to first token of a long prompt over narrow uplinks, against the bytes it must move.

The bound is every row through one uplink, and each link's delay: no header, no computing, no chunk
that must be at a hop whole. The session is open and its connections have carried something before.
"""

from collections.abc import Iterable

from benchmarks.row import Row
from benchmarks.wan.measured import Measured

__all__ = ["rows", "tables"]

_measured = Measured("prefill")


def rows() -> Iterable[Row]:
    """Takes about two minutes; no rows where there can be no network namespace."""
    return _measured.rows


def tables() -> Iterable[str]:
    return _measured.tables
