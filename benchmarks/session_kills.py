"""Sessions under kills: hops killed, stopped, cut off, or lying, at any token of any answer.

    python -m benchmarks.session_kills --kills 1000 --seed 1 > result.json
    python -m benchmarks.session_kills --kind none --kills 50        # no kills at all

Every hop is a process. Each answer is compared with the unsplit model's, token for token.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator, Sequence

from benchmarks.kills.campaign import Campaign, run_campaign
from benchmarks.kills.cases import Flavour, Kind
from benchmarks.kills.registry import NOTICE_S
from benchmarks.kills.report import Report
from benchmarks.row import Row

__all__ = ["main", "rows"]


def rows() -> Iterator[Row]:
    """The figures of a thousand kills."""
    found = asyncio.run(run_campaign(Campaign())).as_json()["all"]
    count = found["count"]
    work = f"{count} faults of ten kinds at random tokens, 3 hops, fp32, loopback"
    yield Row("answers that complete", work, 100 * found["complete"] / count, "%", "100 %")
    yield Row("answers identical to undisturbed", work, 100 * found["identical"] / count, "%",
              "100 %")  # fmt: skip
    for name, mark in (("p50", "< 0.6 s"), ("p95", "<= 1.5 s"), ("max", "")):
        if (value := found["stall_s"][name]) is not None:
            yield Row(f"stall, {name}", work, value, "s", mark)


def main(arguments: Sequence[str]) -> int:
    """0 when every answer was complete and identical, and every bill right."""
    parser = argparse.ArgumentParser(prog="session_kills", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="index of the first case")
    parser.add_argument("--kind", action="append", choices=[str(kind) for kind in Kind],
                        help="only this kind; may be given again")  # fmt: skip
    parser.add_argument("--flavour", action="append", choices=[str(f) for f in Flavour],
                        help="how routes are run; may be given again")  # fmt: skip
    parser.add_argument("--lanes", type=int, default=4, help="routes at the same time")
    parser.add_argument("--drafting", choices=("off", "lookup", "model"), default="lookup")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="each way of every link")
    parser.add_argument("--per-span", type=int, default=3, help="providers for each span")
    parser.add_argument("--notice", type=float, default=NOTICE_S,
                        help="seconds that a dead machine stays announced")  # fmt: skip
    parser.add_argument("--log-level", default="WARNING")
    parser.add_argument("--logs", help="directory for what the processes say")
    given = parser.parse_args(arguments)
    report = asyncio.run(run_campaign(_campaign(given)))
    print(f"\n{report.table()}", file=sys.stderr)
    print(json.dumps(report.as_json()))
    return 0 if _is_good(report) else 1


def _campaign(given: argparse.Namespace) -> Campaign:
    made = Campaign(
        seed=given.seed, first=given.first, kills=given.kills, per_span=given.per_span,
        notice_s=given.notice, lanes=given.lanes, log_level=given.log_level, logs=given.logs,
        drafting=given.drafting, delay_s=given.delay_ms / 1000,
    )  # fmt: skip
    kinds = tuple(Kind(kind) for kind in given.kind) if given.kind else made.kinds
    flavours = tuple(Flavour(name) for name in given.flavour) if given.flavour else made.flavours
    return Campaign(**{**{f: getattr(made, f) for f in made.__dataclass_fields__},
                       "kinds": kinds, "flavours": flavours})  # fmt: skip


def _is_good(report: Report) -> bool:
    return not (report.failures() or report.billing_faults or report.crashes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
