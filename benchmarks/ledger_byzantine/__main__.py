"""How much anyone honest loses among cheats: `python -m benchmarks.ledger_byzantine`.

    python -m benchmarks.ledger_byzantine --sessions 2000 --seed 1

One seed is one run: the same sessions, the same figures. Exit 1 where anyone lost more than the
bound, the book does not balance, or the log does not audit.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence

from benchmarks.ledger_byzantine.losses import Worst
from benchmarks.ledger_byzantine.simulation import CREDIT_WINDOWS, Outcome, simulate

__all__ = ["is_good", "main", "table"]


def main(arguments: Sequence[str]) -> int:
    """0 when every loss stayed within its bound."""
    parser = argparse.ArgumentParser(prog="ledger_byzantine", description=__doc__.split("\n")[0])
    parser.add_argument("--sessions", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    outcome = simulate(given.sessions, given.seed)
    print("\n".join(table(outcome)))
    return 0 if is_good(outcome) else 1


def is_good(outcome: Outcome) -> bool:
    """Whether nobody honest lost more than the bound, and the book and the log agree."""
    losses = outcome.losses
    within = not losses.buyers.beyond and not any(w.beyond for w in losses.providers.values())
    no_gain = not any(w.beyond for w in losses.cheats.values())
    return within and no_gain and not outcome.violations and outcome.audit.ok


def table(outcome: Outcome) -> Iterator[str]:
    """The figures, as text."""
    losses, market = outcome.losses, outcome.market
    yield f"{outcome.sessions} sessions of 3 hops, seed {outcome.seed}, {outcome.wall_s:.0f} s"
    yield f"W = {CREDIT_WINDOWS} windows; a provider's bound is W windows and one step"
    yield ""
    yield _line("honest providers, by payer", "leases", "lost in", "worst", "windows", "of bound")
    for role, worst in sorted(losses.providers.items()):
        yield _figures(f"  {role}", worst)
    yield _figures("honest buyers", losses.buyers)
    yield ""
    yield _line("cheats that gained, honest payer", "leases", "gained in", "most", "windows", "")
    for role, worst in sorted(losses.cheats.items()):
        yield _figures(f"  {role}", worst)
    yield ""
    yield "receipts: " + ", ".join(f"{n} {name}" for name, n in sorted(market.statuses.items()))
    for reason, count in market.reasons.most_common(8):
        yield f"  {count:6} {reason}"
    yield f"equivocations proven, each file verified: {outcome.equivocations}"
    yield (
        f"disputes: {outcome.disputes}, ruled as proposed {outcome.proposed}; to blame"
        f" {outcome.blamed}, of them honest {len(outcome.blamed_wrongly)}"
    )
    yield (
        f"parked of honest providers {losses.parked_honest_nanos} nanos until ruled, taken from"
        f" them {losses.taken_honest_nanos}"
    )
    violations, problems = outcome.violations, outcome.audit.problems
    yield f"book: {len(violations)} violations; audit: {len(problems)} problems"
    yield from (f"  {text}" for text in (*violations[:5], *problems[:5]))


def _figures(name: str, worst: Worst) -> str:
    return _line(
        name, worst.count, worst.losers, worst.worst_nanos,
        f"{worst.worst_windows:.2f}", f"{worst.worst_ratio:.2f}" if worst.worst_bound_nanos else "",
    )  # fmt: skip


def _line(name: str, *cells: object) -> str:
    return f"{name:34}" + "".join(f"{cell!s:>11}" for cell in cells)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
