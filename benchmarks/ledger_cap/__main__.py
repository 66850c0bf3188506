"""A balance for 137 requests, and 1 000 that come at once: how many are served, and what is spent.

    python -m benchmarks.ledger_cap [--engine sqlite|postgresql] [--processes 4] [--case fixed]

Real `piecework-market` processes over one database with fsync on, real HTTP, and the gateway's own
router with its line for money in flight. Heads and providers are simulated as far as the model
goes: receipts are signed, countersigned and handed in. The cases:

    fixed        every answer uses all that was held for it
    omitted      max_tokens left out: instalments, each answer extended once or more
    short        answers a quarter as long as what was held for them
    wrong-count  prompts counted too long by the client; and, from a second account, too short

Hold latency is taken inside the marketplace's processes: `handler` is what /v1/leases and
/v1/sessions/{id}/extensions do behind HTTP, with every transaction and the wait for the database,
refused or not; `book` is Book.hold and Book.grow_hold alone.
"""

import argparse
import asyncio
import sys

from benchmarks.ledger_cap.campaign import run_case
from benchmarks.ledger_cap.case import CASES
from benchmarks.ledger_cap.market import Market
from ledger.database import Session, open_database
from ledger.invariants import check


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--case", choices=(*CASES, "all"), default="all")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--covers", type=int, default=137)
    options = parser.parse_args()
    names = list(CASES) if options.case == "all" else [options.case]
    market = Market(options.engine, options.processes)
    print(f"{options.engine}, {options.processes} processes, {options.requests} at once")
    try:
        good = [
            asyncio.run(run_case(market, name, options.requests, options.covers)) for name in names
        ]
        engine = open_database(market.database_url)
        with Session(engine) as session:
            violations = check(session)
        engine.dispose()
        print("books:", violations or "in order")
    finally:
        market.close()
    sys.exit(0 if all(good) and not violations else 1)


if __name__ == "__main__":
    main()
