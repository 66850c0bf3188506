"""Homes behind every kind of NAT, with every other: connected, punched, and how soon.

In network namespaces with a real relay and 10 ms on each access line, so 40 ms between homes and as
much to the relay. Needs root; without it there are no rows, and the page says so.
"""

from collections.abc import Iterable
from functools import cache
from statistics import median

from benchmarks.row import Row
from tests.netlab.pairs import KINDS, Met, is_direct_possible, meet_all
from tests.netlab.requirements import what_is_missing

__all__ = ["rows", "tables"]

WORKLOAD = (
    f"{len(KINDS) * (len(KINDS) + 1) // 2} pairs of NAT kinds, 40 ms between homes, one relay"
)


@cache
def _met() -> tuple[Met, ...]:
    return () if what_is_missing() else tuple(meet_all())


def rows() -> Iterable[Row]:
    met = _met()
    if not met:
        return
    possible = [m for m in met if is_direct_possible(*m.kinds)]
    direct = [m for m in possible if m.direct_ms is not None]
    relayed = [m.first_byte_ms for m in met if m.first_kind == "relayed"]
    yield Row(
        "pairs connected", WORKLOAD, 100 * sum(not m.error for m in met) / len(met), "%", "100 %"
    )
    yield Row(
        "pairs direct where theory allows",
        WORKLOAD,
        100 * len(direct) / len(possible),
        "%",
        "100 %",
    )
    yield _median("first byte over the relay", relayed)
    yield _median("direct", [m.direct_ms for m in direct if m.direct_ms is not None])


def tables() -> Iterable[str]:
    """Both matrices, for the page."""
    met = {m.kinds: m for m in _met()}
    if not met:
        yield f"NAT pairs were not measured: {what_is_missing()}"
        return
    yield from _matrix("First byte, ms after the dial began; (r) by the relay", met, _first)
    yield from _matrix("Direct, ms after the dial began; - where theory forbids it", met, _direct)


def _median(figure: str, times_ms: list[float]) -> Row:
    spread = f"{min(times_ms):.0f}-{max(times_ms):.0f}"
    return Row(f"time to {figure}, median of pairs", WORKLOAD, median(times_ms), "ms", "", spread)


def _first(met: Met) -> str:
    return f"{met.first_byte_ms:.0f}" + (" (r)" if met.first_kind == "relayed" else "")


def _direct(met: Met) -> str:
    return "-" if met.direct_ms is None else f"{met.direct_ms:.0f}"


def _matrix(title: str, met: dict, cell) -> Iterable[str]:
    yield f"**{title}** (row dials column)\n"
    yield "| | " + " | ".join(KINDS) + " |"
    yield "|---" * (len(KINDS) + 1) + "|"
    for index, one in enumerate(KINDS):
        cells = [""] * index + [
            f"failed: {met[one, other].error[:60]}" if met[one, other].error
            else cell(met[one, other])
            for other in KINDS[index:]
        ]  # fmt: skip
        yield f"| {one} | " + " | ".join(cells) + " |"
    yield ""
