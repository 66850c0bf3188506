"""Decoding over wide links: the ring against its formula and against a client-star.

A route of three providers in processes of their own, real sockets, datagrams delayed in user space
(benchmarks/wan). Engines are rooflines: real frames and rows of an 8B or 70B shape, computing
replaced by a wait. The formula is 1 / (Σ links + Σ computing), nothing for software: three links of
an open ring, four of a sealed one, six of a star.
"""

from collections.abc import Iterable

from benchmarks.row import Row
from benchmarks.wan.measured import Measured

__all__ = ["rows", "tables"]

_measured = Measured("decode")


def rows() -> Iterable[Row]:
    """Takes about three minutes; no rows where there can be no network namespace."""
    return _measured.rows


def tables() -> Iterable[str]:
    return _measured.tables
