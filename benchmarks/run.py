"""Run benchmarks and write docs/benchmarks.md: `make bench`, or some with `make bench BENCH=name`.

A benchmark is a module of this folder with `rows() -> Iterable[Row]`; one with `tables() ->
Iterable[str]` as well adds Markdown lines of its own. Each runs in a process of its own, so that it
has no threads or caches of another. What the last run of each gave is kept in benchmarks/results,
and the page is made of all of them, so a figure can be taken again alone.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from benchmarks.page import Result, page, value_of
from benchmarks.row import Row

__all__ = ["main"]

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
PAGE = FOLDER.parent / "docs" / "benchmarks.md"
SECONDS_MAX = 1_800
"""One benchmark; the longest loads models and decodes with them."""


def main(arguments: Sequence[str]) -> int:
    """0 when every benchmark ran; a missed mark is shown, not a failure."""
    if arguments[:1] == ["--only"]:
        print(json.dumps(_measure(arguments[1])))
        return 0
    failed = [name for name in (arguments or _names()) if not _run(name)]
    results = [Result.read(RESULTS / f"{name}.json") for name in _names() if _is_kept(name)]
    PAGE.write_text(page(results))
    print(f"wrote {PAGE.relative_to(FOLDER.parent)}", file=sys.stderr)
    if failed:
        print(f"failed: {', '.join(sorted(failed))}", file=sys.stderr)
    return 1 if failed else 0


def _names() -> list[str]:
    """Modules that define `rows`; found by reading, so that nothing is imported twice."""
    return sorted(
        path.stem
        for path in FOLDER.glob("*.py")
        if path.stem not in ("run", "row") and "\ndef rows(" in path.read_text()
    )


def _is_kept(name: str) -> bool:
    return (RESULTS / f"{name}.json").exists()


def _measure(name: str) -> dict[str, object]:
    module = import_module(f"benchmarks.{name}")
    rows = [asdict(row) for row in module.rows()]
    tables = list(module.tables()) if hasattr(module, "tables") else []
    title = (module.__doc__ or name).strip().splitlines()[0].rstrip(".")
    return {"title": title, "rows": rows, "tables": tables}


def _run(name: str) -> bool:
    """Measure, print and keep; whether it went well. One that has no rows here keeps its old."""
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
        return False
    # the last line: a benchmark may talk on stdout while it runs
    told = json.loads(done.stdout.strip().splitlines()[-1])
    rows = tuple(Row(**row) for row in told["rows"])
    for row in rows:
        print(f"{name}: {row.figure} [{row.workload}] {value_of(row)} {row.mark}".rstrip())
    if rows:
        measured = f"{datetime.now(UTC):%Y-%m-%d}"
        result = Result(told["title"], measured, _machine(), rows, tuple(told["tables"]))
        RESULTS.mkdir(exist_ok=True)
        result.write(RESULTS / f"{name}.json")
    return True


def _machine() -> str:
    """What a reader needs to judge the figures; no host name."""
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} logical cores, "
        f"Python {platform.python_version()}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
