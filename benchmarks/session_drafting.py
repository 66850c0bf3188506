"""Drafting over wide links: the packaged model on code, summary and chat, and given acceptances.

The model's answers are short and known nearly by heart (benchmarks/wan/texts.py says which). Drafts
are copied from prompt and answer; every text is the same with them and without. Given acceptances
are those of a roofline's text, with drafts that cost nothing.
"""

from collections.abc import Iterable

from benchmarks.row import Row
from benchmarks.wan.measured import Measured

__all__ = ["rows", "tables"]

_measured = Measured("drafting")


def rows() -> Iterable[Row]:
    """Takes about five minutes; no rows where there can be no network namespace."""
    return _measured.rows


def tables() -> Iterable[str]:
    return _measured.tables
