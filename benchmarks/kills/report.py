"""What a campaign found: a table by kind, what failed and how to repeat it, money, growth."""

import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.kills.cases import Case, Kind
from benchmarks.kills.growth import Growth
from benchmarks.kills.judging import Verdict, quantile
from benchmarks.kills.lane import Lane
from benchmarks.kills.rounds import Outcome

__all__ = ["Report"]

Table = dict[str, Any]
SLOWEST_SHOWN = 20


class Report:
    """Filled round by round; `as_json` is the result."""

    def __init__(self, seed: int, command: str, growth: Growth) -> None:
        self.took_s = 0.0
        self.left: dict[str, dict[str, Any]] = {}
        """By lane: providers that still hold something once all is quiet."""
        self.billing_faults: list[str] = []
        self.crashes: list[str] = []
        self.receipts = 0
        self.hops_short_of_pay = 0
        self._seed = seed
        self._command = command
        self._growth = growth
        self._outcomes: list[Outcome] = []
        self._by_lane: defaultdict[str, list[Outcome]] = defaultdict(list)
        self._logs: str | None = None

    def add(self, lane: str, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._by_lane[lane].append(outcome)

    def bill(self, lane: Lane) -> None:
        """Compare what that lane's hops were paid for with what was carried."""
        for outcome in self._by_lane[lane.name] if lane.flavour.paid else ():
            for session, rows in outcome.billing_rows.items():
                lane.billing.close(session, rows)
                if outcome.case.kind in (Kind.NONE, Kind.REBIND):
                    self.hops_short_of_pay += lane.billing.short(session, rows)
        self.receipts += lane.billing.receipts
        self.billing_faults += lane.billing.faults

    def keep_logs(self, logs: Path, to: str | None) -> None:
        """Where they were asked for, or something failed: their directory goes with the farm."""
        if to is not None or self.failures():
            self._logs = to or tempfile.mkdtemp(prefix="kills-logs-")
            shutil.copytree(logs, self._logs, dirs_exist_ok=True)

    @property
    def kills(self) -> list[Outcome]:
        return [o for o in self._outcomes if o.case.kind is not Kind.NONE]

    def line(self) -> str:
        verdicts = [o.verdict for o in self.kills]
        stalls = _stalls(self.kills)
        return (
            f"{len(verdicts)} faults, {sum(v.complete for v in verdicts)} complete, "
            f"{sum(v.identical for v in verdicts)} identical, stall p50 "
            f"{quantile(stalls, 0.5) or 0:.2f} s p95 {quantile(stalls, 0.95) or 0:.2f} s"
        )

    def problem(self, outcome: Outcome) -> str | None:
        """What went wrong in a round, and all that is needed to see it again."""
        for what, verdict in (("", outcome.verdict), (" (the answer beside it)", outcome.aside)):
            if verdict is not None and not verdict.identical:
                case = outcome.case
                said = verdict.error or f"another answer than undisturbed, {verdict.tokens} tokens"
                return (
                    f"case {case.index} {case.kind} {case.flavour}{what}: {said}; "
                    f"done: {', '.join(outcome.struck)}; session {verdict.session}\n"
                    f"    repeat: {self.command(case)}"
                )
        return None

    def command(self, case: Case) -> str:
        return (
            f"python -m benchmarks.session_kills --seed {self._seed} --first {case.index} --kills 1"
        )

    def failures(self) -> list[Outcome]:
        return [o for o in self._outcomes if self.problem(o)]

    def as_json(self) -> Table:
        """Everything; times in seconds, memory in KiB."""
        by_kind: defaultdict[str, list[Outcome]] = defaultdict(list)
        for outcome in self._outcomes:
            by_kind[outcome.case.kind].append(outcome)
        return {
            "seed": self._seed,
            "took_s": round(self.took_s, 1),
            "kinds": {kind: _row(by_kind[kind]) for kind in sorted(by_kind)},
            "flavours": {
                flavour: _row([o for o in self.kills if o.case.flavour == flavour])
                for flavour in sorted({o.case.flavour for o in self.kills})
            },
            "all": _row(self.kills),
            "failures": [asdict(o) | {"repeat": self.command(o.case)} for o in self.failures()],
            "slowest": [self._slow(o) for o in self._slowest(SLOWEST_SHOWN)],
            "receipts": self.receipts,
            "billing_faults": self.billing_faults,
            "hops_short_of_pay": self.hops_short_of_pay,
            "left_behind": self.left,
            "crashes": self.crashes,
            "growth": self._growth_table(),
            "logs": self._logs,
        }

    def _slowest(self, count: int) -> list[Outcome]:
        """The longest stalls among complete answers."""
        stalled = [o for o in self.kills if o.verdict.stall_s is not None]
        return sorted(stalled, key=lambda o: -(o.verdict.stall_s or 0.0))[:count]

    def _slow(self, outcome: Outcome) -> Table:
        return {
            "stall_s": round(outcome.verdict.stall_s or 0.0, 2),
            "kind": outcome.case.kind,
            "struck": outcome.struck,
            "epochs": outcome.verdict.epochs,
            "session": outcome.verdict.session,
            "repeat": self.command(outcome.case),
        }

    def table(self) -> str:
        """For people."""
        titles = ("kind", "count", "complete", "identical", "repairs", "missed", "stall p50", "p95",
                  "max", "opening p50", "p95", "max")  # fmt: skip
        found = self.as_json()
        rows = [titles, *(_cells(kind, row) for kind, row in found["kinds"].items())]
        rows += [_cells(flavour, row) for flavour, row in found["flavours"].items()]
        rows.append(_cells("all faults", found["all"]))
        widths = [max(len(row[i]) for row in rows) for i in range(len(titles))]
        lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
        growth = json.dumps(found["growth"], indent=1)
        return "\n".join(
            (
                *lines, f"{self.took_s:.0f} s; {self.receipts} receipts, "
                f"{len(self.billing_faults)} faults in them; left behind: {self.left}; "
                f"crashed: {self.crashes}",
                *self.billing_faults[:10], f"growth behind the warm-up: {growth}",
            )
        )  # fmt: skip

    def _growth_table(self) -> Table:
        heads: Table = {}
        for process in self._growth.samples:
            if process.startswith("head") and (slopes := self._growth.slopes(process)):
                heads[process] = {
                    name: {"from": round(s.first, 1), "to": round(s.last, 1),
                           "per_answer": round(s.per_answer, 4)}
                    for name, s in slopes.items()
                }  # fmt: skip
        pooled = self._growth.pooled_kib_per_answer("provider")
        return heads | {"providers_kib_per_answer": None if pooled is None else round(pooled, 2)}


def _row(outcomes: Sequence[Outcome]) -> Table:
    verdicts = [o.verdict for o in outcomes]
    asides = [o.aside for o in outcomes if o.aside is not None]
    return {
        "count": len(verdicts),
        "complete": sum(v.complete for v in verdicts),
        "identical": sum(v.identical for v in verdicts),
        "missed": sum(not v.hit for v in verdicts),
        "asides": len(asides),
        "asides_identical": sum(v.identical for v in asides),
        "repaired": sum(v.epochs > 0 for v in verdicts),
        "epochs_max": max((v.epochs for v in verdicts), default=0),
        "stall_s": _quantiles(_stalls(outcomes)),
        "opening_s": _quantiles(_openings((*verdicts, *asides))),
    }


def _stalls(outcomes: Iterable[Outcome]) -> list[float]:
    return [o.verdict.stall_s for o in outcomes if o.verdict.stall_s is not None]


def _openings(verdicts: Iterable[Verdict]) -> list[float]:
    return [v.opening_s for v in verdicts if v.opening_s is not None]


def _quantiles(values: Sequence[float]) -> Table:
    shares = {"p50": 0.5, "p95": 0.95, "max": 1.0}
    found = {name: quantile(values, share) for name, share in shares.items()}
    return {name: None if value is None else round(value, 3) for name, value in found.items()}


def _cells(kind: str, row: Table) -> tuple[str, ...]:
    counts = [f"{row[name]}" for name in ("count", "complete", "identical", "repaired", "missed")]
    times = [row[what][name] for what in ("stall_s", "opening_s") for name in ("p50", "p95", "max")]
    return (kind, *counts, *("-" if t is None else f"{t:.2f}" for t in times))
