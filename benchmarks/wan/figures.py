"""From measured values to rows of docs/benchmarks.md, told on stderr as they come."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from statistics import median
from typing import Any, Final

import psutil

from benchmarks.row import Row

__all__ = ["IDLE_MIN", "Figures", "quantile", "tell"]

IDLE_MIN: Final = 0.2
"""Share of all processors that must have been idle: with less, it is the machine we measure."""


def tell(text: str) -> None:
    """Progress, for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies, of those there are."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Figures:
    """Rows, and how busy the machine was while each was measured."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._busy: dict[str, tuple[float, float]] = {}
        """By what was measured, of its busiest round: shares idle, and spent on the bed."""

    def add(
        self, figure: str, workload: str, values: Sequence[float], unit: str, mark: str = ""
    ) -> None:
        """One row: the median of the values, and how far they lie apart."""
        spread = f"{min(values):.3g}-{max(values):.3g}" if len(values) > 1 else ""
        row = Row(figure, workload, median(values), unit, mark, spread)
        self.rows.append(row)
        tell(f"{figure} [{workload}] {row.value:.4g} {unit} ({spread}) {mark}".rstrip())

    @contextmanager
    def watching(self, what: str) -> Iterator[None]:
        """Note how busy the processors were during the block, and with what."""
        before, ours_before = psutil.cpu_times(), _own_cpu_s()
        yield
        after, ours_after = psutil.cpu_times(), _own_cpu_s()
        total = max(sum(after) - sum(before), 1e-9)
        busy = (after.idle - before.idle) / total, (ours_after - ours_before) / total
        self._busy[what] = min(busy, self._busy.get(what, busy))
        if busy[0] < IDLE_MIN:
            tell(f"{what}: the machine was busy, {100 * busy[0]:.0f} % idle: take it again")

    def to_json(self) -> dict[str, Any]:
        return {"rows": [asdict(row) for row in self.rows], "tables": self._table()}

    def _table(self) -> list[str]:
        """Which figures the machine itself may have spoiled."""
        lines = ["| processors while measuring, busiest round | idle | the bed |", "|---|---|---|"]
        for what, (idle, ours) in self._busy.items():
            lines.append(f"| {what} | {100 * idle:.0f} % | {100 * ours:.0f} % |")
        return lines if self._busy else []


def _own_cpu_s() -> float:
    """Processor seconds of this process and those it has started that still run."""
    here = psutil.Process()
    spent = 0.0
    for process in (here, *here.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent += times.user + times.system
    return spent
