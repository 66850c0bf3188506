"""docs/benchmarks.md: a section a benchmark, from what its last run gave."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.row import Row

__all__ = ["Result", "page", "value_of"]


@dataclass(frozen=True, slots=True)
class Result:
    """One benchmark's last run."""

    title: str
    measured: str
    """The day."""
    machine: str
    rows: Sequence[Row]
    tables: Sequence[str]
    """Markdown lines behind the rows."""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Result":
        fields = json.loads(path.read_text())
        return cls(**{**fields, "rows": tuple(Row(**row) for row in fields["rows"])})


def page(results: Iterable[Result]) -> str:
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. A ratio compares two things in one run on one machine.",
    ]
    for result in results:
        lines += ["", f"## {result.title}", "", f"{result.measured}, {result.machine}."]
        lines += ["", "| figure | workload | value | spread | mark |", "|---|---|---|---|---|"]
        lines += [
            f"| {row.figure} | {row.workload} | {value_of(row)} | {row.spread} | {row.mark} |"
            for row in result.rows
        ]
        lines += ["", *result.tables] if result.tables else []
    return "\n".join(lines).rstrip() + "\n"


def value_of(row: Row) -> str:
    value = f"{row.value:,.0f}" if abs(row.value) >= 1_000 else f"{row.value:.3g}"
    return f"{value} {row.unit}".strip()
