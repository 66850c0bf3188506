"""Kill a marketplace hundreds of times while receipts come in, and prove its books afterwards.

    python -m benchmarks.ledger_kills --engine sqlite --kills 300 --receipts 1000000 --seed 1

Talk goes to stderr, the counts as JSON to stdout; exit code 0 only if nothing was lost, nothing was
paid twice, every nano is there, and no invariant was ever broken.
"""

import argparse
import json
import signal
import sys

from benchmarks.ledger_kills.campaign import Campaign, run_campaign

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """One campaign, or one on each engine."""
    parser = argparse.ArgumentParser(prog="ledger_kills", description=__doc__.split("\n")[0])
    parser.add_argument("--engine", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--kills", type=int, default=300, help="at least so many")
    parser.add_argument("--receipts", type=int, default=1_000_000, help="at least so many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sessions", type=int, default=250, help="opened together, and a batch")
    parser.add_argument("--per-lease", type=int, default=40, help="receipts under each lease")
    parser.add_argument("--hops", type=int, default=8, help="providers, and hops of a session")
    parser.add_argument("--payouts", type=int, default=200, help="asked for along the way")
    parser.add_argument("--loads", type=int, default=2, help="processes of providers")
    parser.add_argument("--gateways", type=int, default=1, help="real ones, with real providers")
    parser.add_argument("--only", nargs="*", default=[], metavar="ROLE", help="kill these alone")
    parser.add_argument("--keep", action="store_true", help="leave the directory of the run")
    parser.add_argument("--quiet", action="store_true")
    given = parser.parse_args(arguments)
    # end as Ctrl-C would: everything that was started is stopped
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    engines = ("sqlite", "postgresql") if given.engine == "both" else (given.engine,)
    good = True
    for engine in engines:
        report = run_campaign(
            Campaign(
                engine=engine, kills=given.kills, receipts=given.receipts, seed=given.seed,
                hops=given.hops, loads=given.loads, cohort_sessions=given.sessions,
                receipts_per_lease=given.per_lease, payouts=given.payouts,
                gateways=given.gateways, only=tuple(given.only),
                keep=given.keep, quiet=given.quiet,
            )
        )  # fmt: skip
        sys.stderr.write(f"\n{report.table()}\n")
        print(json.dumps(report.as_json()), flush=True)
        good = good and report.is_good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
