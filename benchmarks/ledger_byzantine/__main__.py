"""How much anyone honest loses among cheats: `python -m benchmarks.ledger_byzantine`.

    python -m benchmarks.ledger_byzantine --sessions 2000 --seed 1

One seed is one run: the same sessions, the same figures. Exit 1 where anyone lost more than the
bound, an honest party was blamed or a liar was not, the book does not balance, or the log does not
audit.
"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.ledger_byzantine.simulation import simulate
from benchmarks.ledger_byzantine.tables import shortfalls, table

__all__ = ["main"]

SESSIONS = 2000
"""About two minutes of an idle core."""


def main(arguments: Sequence[str]) -> int:
    """0 when every bound held."""
    parser = argparse.ArgumentParser(prog="ledger_byzantine", description=__doc__.split("\n")[0])
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--contested", action="store_true", help="only buyers that sign whatever a hop meters"
    )
    given = parser.parse_args(arguments)
    outcome = simulate(given.sessions, given.seed, contested=given.contested)
    print("\n".join(table(outcome)))
    failed = shortfalls(outcome)
    print("\n".join(f"NOT HELD: {text}" for text in failed) or "all bounds held")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
