"""Run every benchmark that is there and write docs/benchmarks.md: `make bench`.

A benchmark is a module of this folder with `rows() -> Iterable[Row]`. Each runs in a process of its
own, so that one's threads and caches are not another's; `python -m benchmarks.run NAME …` runs some
and prints them without touching the page.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from benchmarks.row import Row

__all__ = ["main"]

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "docs" / "benchmarks.md"
SECONDS_MAX = 1_800
"""One benchmark; the longest loads models and decodes with them."""


def main(arguments: Sequence[str]) -> int:
    """0 when every benchmark ran; a missed mark is shown, not a failure."""
    if arguments[:1] == ["--only"]:
        print(json.dumps([asdict(row) for row in _rows_of(arguments[1])]))
        return 0
    found = {name: _run(name) for name in (arguments or _names())}
    for name, rows in found.items():
        for row in rows or ():
            print(f"{name}: {row.figure} [{row.workload}] {_value(row)} {row.mark}".rstrip())
    failed = sorted(name for name, rows in found.items() if rows is None)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    if not arguments:
        PAGE.write_text(_page(found))
        print(f"wrote {PAGE.relative_to(FOLDER.parent)}", file=sys.stderr)
    return 0


def _names() -> list[str]:
    """Modules that define `rows`; found by reading, so that nothing is imported twice."""
    return sorted(
        path.stem
        for path in FOLDER.glob("*.py")
        if path.stem not in ("run", "row") and "\ndef rows(" in path.read_text()
    )


def _rows_of(name: str) -> Iterable[Row]:
    rows: Iterable[Row] = import_module(f"benchmarks.{name}").rows()
    return rows


def _run(name: str) -> list[Row] | None:
    print(f"{name} …", file=sys.stderr)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", "--only", name],
        cwd=FOLDER.parent,
        stdout=subprocess.PIPE,
        text=True,
        timeout=SECONDS_MAX,
        # large pages, as a node's engine process has them; both sides of a ratio get them
        env={**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
        check=False,
    )
    if done.returncode != 0:
        return None
    # the last line: a benchmark may talk on stdout while it runs
    return [Row(**row) for row in json.loads(done.stdout.strip().splitlines()[-1])]


def _page(found: dict[str, list[Row] | None]) -> str:
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. A ratio compares two things in one run on one machine.",
        "",
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {_machine()}.",
        "",
        "| figure | workload | value | spread | mark |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.figure} | {row.workload} | {_value(row)} | {row.spread} | {row.mark} |"
        for rows in found.values()
        for row in rows or ()
    ]
    return "\n".join(lines) + "\n"


def _value(row: Row) -> str:
    value = f"{row.value:,.0f}" if abs(row.value) >= 1_000 else f"{row.value:.3g}"
    return f"{value} {row.unit}".strip()


def _machine() -> str:
    """What a reader needs to judge the figures; no host name."""
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} logical cores, "
        f"Python {platform.python_version()}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
