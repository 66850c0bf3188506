"""Row: one measured figure, as `make bench` prints it and docs/benchmarks.md keeps it."""

from dataclasses import dataclass

__all__ = ["Row"]


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured, on what workload, and what it should reach."""

    figure: str
    workload: str
    value: float
    unit: str
    """`x` for a ratio within one run; otherwise the unit of `value`."""
    mark: str = ""
    """What it should reach, as text (`>= 1.6 x`), or empty where only the figure is of interest."""
    spread: str = ""
    """How far the rounds lay apart, as text (`0.98-1.03`), or empty for a count."""
