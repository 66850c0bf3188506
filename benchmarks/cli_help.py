"""How long `piecework --help` takes, against an interpreter that does nothing."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.row import Row

__all__ = ["rows"]

ROUNDS = 9


def rows() -> list[Row]:
    piecework = str(Path(sys.executable).with_name("piecework"))
    told = _times_ms([piecework, "--help"])
    empty = _times_ms([sys.executable, "-c", "pass"])
    return [
        Row(
            "`piecework --help`",
            f"median of {ROUNDS}; an empty interpreter takes {median(empty):.0f} ms",
            median(told),
            "ms",
            "< 200 ms",
            f"{min(told):.0f}-{max(told):.0f}",
        )
    ]


def _times_ms(command: Sequence[str]) -> list[float]:
    times = []
    for _ in range(ROUNDS + 1):
        start = perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        times.append((perf_counter() - start) * 1_000)
    return times[1:]  # the first reads from disk
