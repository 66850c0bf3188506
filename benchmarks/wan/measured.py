"""One scenario, measured when its rows are first asked for: what benchmark modules are made of."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from benchmarks.row import Row
from benchmarks.wan.__main__ import run_scenario

__all__ = ["Measured"]


class Measured:
    """Measures at most once."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def rows(self) -> Sequence[Row]:
        return [Row(**fields) for fields in self._found["rows"]]

    @property
    def tables(self) -> Sequence[str]:
        found: list[str] = self._found["tables"]
        return found

    @cached_property
    def _found(self) -> dict[str, Any]:
        return run_scenario(self._name)
