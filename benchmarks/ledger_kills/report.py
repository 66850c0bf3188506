"""What a campaign came to: counts of kills, checks and receipts, and the proof at its end."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.ledger_kills.checks import Checks

__all__ = ["Answers", "Proof", "Report"]


@dataclass(slots=True)
class Answers:
    """What came of the real gateways: the buyer's questions, and the sessions in the book."""

    questions: int = 0
    given_up: int = 0
    """Asked as often as may be, and never answered whole."""
    whole: int = 0
    """Answers with their usage, to the last piece."""
    broken: int = 0
    """Answers that had begun, and were asked for again."""
    refused: int = 0
    """Tries that no session came of: nobody listened, or there was no route just then."""
    sessions: int = 0
    signed_to_the_end: int = 0
    """Sessions whose hops were all paid to the last row, exactly."""
    never_closed: int = 0
    """Sessions whose gateway died before it could say that they are over: resolved when their
    time for receipts was."""
    repaired: int = 0
    overdue: int = 0
    """Holds resolved at the very end, by a clock that was put forward."""
    unsigned_rows: int = 0
    """Rows that hops have run for killed gateways and have no receipt for, by their own meters."""
    unsigned_nanos: int = 0
    """What these would have earned: the providers' loss."""
    unsigned_rows_max: int = 0
    """Of one session at one hop: at most the credit and one step."""
    rows_in_vain: int = 0
    """Drafted and not taken: run, and paid for."""
    refused_receipts: int = 0
    charged_nanos: int = 0

    def line(self) -> str:
        """For a person."""
        return (
            f"  real gateways: {self.questions} questions, {self.whole} answers whole, "
            f"{self.broken} broken, {self.given_up} given up, {self.refused} tries in vain; "
            f"{self.sessions} sessions, {self.never_closed} of killed gateways "
            f"({self.overdue} resolved by a clock put forward), {self.signed_to_the_end} "
            f"signed to the end, {self.repaired} repaired; unsigned by killed gateways "
            f"{self.unsigned_rows} rows ({self.unsigned_nanos:,} nanos), at most "
            f"{self.unsigned_rows_max} at a hop; "
            f"drafted in vain {self.rows_in_vain} rows; receipts "
            f"refused {self.refused_receipts}; charged {self.charged_nanos:,}"
        )


@dataclass(slots=True)
class Proof:
    """The journals against the books, after everything has come to its end."""

    receipts_acknowledged: int = 0
    receipts_stored: int = 0
    late: int = 0
    """Handed in when their lease's time was over, refused, and not paid."""
    lost: int = 0
    """Acknowledged, and not in the ledger and its log under that leaf index with those bytes."""
    paid_twice: int = 0
    """Sessions, top-ups or payouts that moved money more than once."""
    paid_wrongly: int = 0
    """Of these, and of balances: other amounts than the journals give."""
    unaccounted_nanos: int = 0
    """Paid in, less what is owed, earned, paid out and kept as fee."""
    sessions: int = 0
    topups: int = 0
    payouts: int = 0
    """Sent exactly once, and booked so."""
    payouts_open: int = 0
    """Asked for and not sent; 0 where the campaign waited for them."""
    processor_faults: int = 0
    """Replies that the processor lost or spoiled."""
    paid_in_nanos: int = 0
    charged_nanos: int = 0
    fee_nanos: int = 0
    paid_out_nanos: int = 0
    unacknowledged_holds: int = 0
    """Leased just as a head died: not acknowledged, and released when their time is over."""
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    """The first of whatever is wrong, in words."""
    answers: Answers | None = None
    """None where no real gateway ran."""

    @property
    def holds(self) -> bool:
        return not (
            self.lost
            or self.paid_twice
            or self.paid_wrongly
            or self.unaccounted_nanos
            or self.faults
        )


@dataclass(slots=True)
class Report:
    """Of one campaign."""

    engine: str
    seed: int
    receipts: int = 0
    seconds: float = 0.0
    drain_seconds: float = 0.0
    restarts: int = 0
    deaths: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By kind of process, and by fail-point or manner."""
    gave_up: Counter[str] = field(default_factory=Counter)
    """Workers that ended because the database was away, and were started again."""
    checks: dict[str, Any] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    proof: Proof = field(default_factory=Proof)
    directory: Path | None = None
    """With every log and journal, where it was to be kept."""

    @property
    def kills(self) -> int:
        return self.deaths.total()

    @property
    def is_good(self) -> bool:
        return self.proof.holds and not self.violations

    def killed(self, role: str, manner: str) -> None:
        self.deaths[role, manner] += 1

    def note_checks(self, checks: "Checks") -> None:
        self.checks = {
            name: {
                "runs": runs,
                "cut_short": checks.cut_short[name],
                "seconds": round(checks.seconds[name], 2),
            }
            for name, runs in checks.runs.items()
        }
        self.violations = [f"{v.invariant}: {v.detail}" for v in checks.violations]

    def line(self) -> str:
        """Where it stands."""
        rate = self.receipts / max(self.seconds, 0.001)
        return (
            f"{self.seconds:6.0f} s  {self.receipts:9,} receipts  {rate:6,.0f}/s  "
            f"{self.kills:4} kills  {len(self.violations)} violations"
        )

    def table(self) -> str:
        """For a person."""
        roles = sorted({role for role, _ in self.deaths})
        lines = [f"engine {self.engine}, seed {self.seed}", self.line(), "kills:"]
        for role in roles:
            manners = {m: n for (r, m), n in sorted(self.deaths.items()) if r == role}
            total = sum(manners.values())
            words = ", ".join(f"{manner} {count}" for manner, count in manners.items())
            lines.append(f"  {role:9} {total:4}  {words}")
        lines.append(f"restarts {self.restarts}, gave up without a database {dict(self.gave_up)}")
        for name, told in self.checks.items():
            lines.append(f"  check {name:28} {told['runs']:5} times {told['seconds']:8.1f} s")
        proof = self.proof
        lines += [
            f"acknowledged receipts {proof.receipts_acknowledged:,}, stored "
            f"{proof.receipts_stored:,}, refused as too late {proof.late:,}",
            f"  lost {proof.lost}, paid twice {proof.paid_twice}, paid wrongly "
            f"{proof.paid_wrongly}, nanos unaccounted {proof.unaccounted_nanos}",
            f"  sessions {proof.sessions:,}, top-ups {proof.topups:,}, payouts {proof.payouts:,} "
            f"(open {proof.payouts_open}), replies spoiled {proof.processor_faults}",
            f"  paid in {proof.paid_in_nanos:,} = charged and kept; charged "
            f"{proof.charged_nanos:,}, fee {proof.fee_nanos:,}, paid out {proof.paid_out_nanos:,}",
            *([proof.answers.line()] if proof.answers else []),
            *(f"  FAULT {fault}" for fault in proof.faults),
            *(f"  VIOLATION {violation}" for violation in self.violations[:20]),
        ]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Everything, for a machine."""
        told = {
            "engine": self.engine, "seed": self.seed, "kills": self.kills,
            "receipts": self.receipts, "seconds": round(self.seconds, 1),
            "drain_seconds": round(self.drain_seconds, 1), "restarts": self.restarts,
            "deaths": {f"{role} {how}": n for (role, how), n in sorted(self.deaths.items())},
            "gave_up": dict(self.gave_up), "checks": self.checks, "violations": self.violations,
        }  # fmt: skip
        return told | {"proof": asdict(self.proof)}
