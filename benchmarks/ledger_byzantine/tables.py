"""A run's figures as text, and which of its promises it did not keep."""

from collections.abc import Iterator, Mapping

from benchmarks.ledger_byzantine.behaviour import CAUGHT_BY, Behaviour
from benchmarks.ledger_byzantine.losses import Worst
from benchmarks.ledger_byzantine.people import STAGES
from benchmarks.ledger_byzantine.simulation import CREDIT_WINDOWS, Outcome

__all__ = ["BLAMES_FROM_SESSIONS", "shortfalls", "table"]

BLAMES_FROM_SESSIONS = 500
"""From so many on somebody must have been blamed: a few disputes prove nothing of anyone."""


def shortfalls(outcome: Outcome) -> list[str]:
    """What did not hold, a sentence each; empty where all did."""
    losses, judgement = outcome.losses, outcome.judgement
    beyond = {role: worst.beyond for role, worst in losses.providers.items() if worst.beyond}
    gained = {role: worst.beyond for role, worst in losses.cheats.items() if worst.beyond}
    checks = {
        f"honest providers lost more than their bound, by payer: {beyond}": beyond,
        f"{losses.buyers.beyond} honest buyers were charged more than arrived": (
            losses.buyers.beyond or losses.buyers.worst_nanos > 0
        ),
        f"cheats gained from honest payers: {gained}": gained,
        f"honest parties were blamed: {outcome.blamed_wrongly}": outcome.blamed_wrongly,
        f"{losses.taken_honest_nanos} nanos were taken from honest providers by rulings": (
            losses.taken_honest_nanos
        ),
        "nobody was blamed, though links contradict one another": (
            outcome.sessions >= BLAMES_FROM_SESSIONS and not judgement.blamed
        ),
        f"the book: {outcome.violations[:3]}": outcome.violations,
        f"the audit: {outcome.audit.problems[:3]}": not outcome.audit.ok,
    }
    return [sentence for sentence, failed in checks.items() if failed]


def table(outcome: Outcome) -> Iterator[str]:
    """The figures."""
    yield f"{outcome.sessions} sessions of {STAGES} hops, seed {outcome.seed}"
    yield f"W = {CREDIT_WINDOWS} windows; a provider's bound is W windows and one step"
    yield ""
    yield from _behaviours(outcome)
    yield ""
    yield from _bounds(outcome)
    yield ""
    yield from _blame(outcome)
    yield ""
    statuses = outcome.market.statuses
    yield "receipts: " + ", ".join(f"{n} {name}" for name, n in sorted(statuses.items()))
    for reason, count in outcome.market.reasons.most_common(8):
        yield f"  {count:6} {reason}"
    yield f"equivocations proven, each file verified: {outcome.equivocations}"
    violations, problems = outcome.violations, outcome.audit.problems
    yield f"book: {len(violations)} violations; audit: {len(problems)} problems"
    yield f"{outcome.wall_s:.0f} s"


def _behaviours(outcome: Outcome) -> Iterator[str]:
    heading = ("sessions", *CAUGHT_BY, "none", "honest", "gain", "gain w", "by pact")
    yield _row("payers", *heading)
    yield from _kinds(outcome.behaviours.payers)
    yield _row("providers", *heading)
    yield from _kinds(outcome.behaviours.providers)
    yield "E1 equivocation, E2 unsigned tail, E3 link mismatch, E4 bad output (not played),"
    yield "E5 refused by the marketplace, in sessions; honest: the most windows that an honest"
    yield "provider lost in one; gain: nanos in all, and windows of a hop at most in one session;"
    yield "by pact: nanos from payers that cheat too"


def _kinds(kinds: Mapping[str, Behaviour]) -> Iterator[str]:
    for name, each in sorted(kinds.items()):
        yield _row(
            f"  {name}", each.sessions, *(each.caught[kind] for kind in (*CAUGHT_BY, "none")),
            f"{each.honest_loss_windows:.2f}", each.gain_nanos, f"{each.gain_windows:.2f}",
            each.collusion_nanos,
        )  # fmt: skip


def _bounds(outcome: Outcome) -> Iterator[str]:
    losses = outcome.losses
    yield _line("honest providers, by payer", "leases", "lost in", "worst", "windows", "of bound")
    for role, worst in sorted(losses.providers.items()):
        yield _figures(f"  {role}", worst)
    yield _figures("honest buyers", losses.buyers)


def _blame(outcome: Outcome) -> Iterator[str]:
    judgement, losses = outcome.judgement, outcome.losses
    contradicted, blamed = outcome.liars_contradicted, outcome.liars_blamed
    found = ", ".join(
        f"{role}: {blamed.get(role, 0)} of {count}" for role, count in sorted(contradicted.items())
    )
    yield f"liars blamed, of those whom any neighbour contradicted: {found or 'none'}"
    yield f"blamed wrongly: {len(outcome.blamed_wrongly)}"
    yield (
        f"disputes: {judgement.disputes}, ruled as proposed {judgement.proposed}; pairs decided"
        f" {len(judgement.decided)}, both blamed {len(judgement.both)}, undecidable"
        f" {len(judgement.undecidable)}"
    )
    yield (
        f"parked {judgement.parked_nanos} nanos: to buyers {judgement.returned_nanos}, to those"
        f" cleared {judgement.cleared_nanos}, to both ends for want of proof"
        f" {judgement.unclear_nanos}"
    )
    yield (
        f"of it of honest providers {losses.parked_honest_nanos}, taken from them"
        f" {losses.taken_honest_nanos}"
    )
    yield (
        f"honest hops that an honest head left out for the link of the hop before them:"
        f" {losses.left_out_honest}"
    )


def _figures(name: str, worst: Worst) -> str:
    return _line(
        name, worst.count, worst.losers, worst.worst_nanos,
        f"{worst.worst_windows:.2f}", f"{worst.worst_ratio:.2f}" if worst.worst_bound_nanos else "",
    )  # fmt: skip


def _line(name: str, *cells: object) -> str:
    return f"{name:34}" + "".join(f"{cell!s:>11}" for cell in cells)


def _row(name: str, *cells: object) -> str:
    widths = (9, *[6] * 6, 7, 10, 8, 10)
    shown = zip(cells, widths, strict=True)
    return f"{name:34}" + "".join(f"{cell!s:>{width}}" for cell, width in shown)
