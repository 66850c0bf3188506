"""Who is killed next and how, and starting them again: half by signal at a random moment, half by a
fail-point that the next life is given."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.ledger_kills.checks import Checks
from benchmarks.ledger_kills.client import Client
from benchmarks.ledger_kills.failpoints import Failpoints
from benchmarks.ledger_kills.moments import Gateway
from benchmarks.ledger_kills.processes import Program
from benchmarks.ledger_kills.report import Report
from benchmarks.ledger_kills.stage import LOAD_ROLES, Stage

__all__ = ["Supervisor"]

WEIGHTS = {
    "market": 5, "settle": 3, "payout": 3, "head": 2, "load": 2, "payee": 1, "postgres": 3,
    "gateway": 4,
}  # fmt: skip
"""How often each kind of process is struck, next to one another."""
GROUP_SIZES = (1, 1, 2, 3)
"""Processes that are killed at the same moment."""
PAUSE_S_MAX = 0.4
"""Between a death and the next life."""
READY_S = 60.0
ARMED_SHARE = 0.6
"""Of new lives: somewhat more than half, for some points are not reached."""
ARMED_S = 10.0
"""A life with a fail-point that was not reached in this time is killed like any other."""
GATEWAY_ARMED_S = 40.0
"""Of a gateway, which needs a part of it to load its model, and is asked for one answer a time."""
NO_MARKET = "did not answer"
"""What a gateway says that starts while the marketplace is away: it ends, to be started again."""
DATABASE_GONE_S = 15.0
"""A worker that starts while PostgreSQL is away may give up; whoever runs it starts it again."""
KILLED = -9


@dataclass(slots=True)
class Supervisor:
    """Of one stage. `may_arm`: whether new lives are given fail-points. `only`: kinds of process
    that are killed; all where empty."""

    stage: Stage
    checks: Checks
    rng: random.Random
    report: Report
    may_arm: bool = True
    only: tuple[str, ...] = ()
    _database_gone_at: float = -1e9
    _failpoints: Failpoints = field(init=False)

    def __post_init__(self) -> None:
        self._failpoints = Failpoints(self.rng)

    def tend(self) -> None:
        """Start again what has died of a fail-point; raises RuntimeError for any other death."""
        for program in self.stage.outside:
            if program.code is not None:
                raise RuntimeError(f"{program.name} ended by itself:\n{program.tail()}")
        dead = [program for program in self.stage.programs if self._has_died(program)]
        if dead:
            self._revive(dead)

    def strike(self) -> None:
        """Kill one to three processes at the same moment, and start them again."""
        time.sleep(self.rng.uniform(0.0, PAUSE_S_MAX))
        roles = self._roles()
        dead: list[Program] = []
        for _ in range(self.rng.choice(GROUP_SIZES)):
            if not roles:
                break
            role = self.rng.choices(roles, [WEIGHTS[role] for role in roles])[0]
            roles.remove(role)
            if role == "postgres":
                self._strike_postgres()
                continue
            program = self.rng.choice(self._strikable(role))
            if program.kill():
                if program.failpoint:
                    self._failpoints.note(role, program.failpoint, reached=False)
                self.report.killed(role, "random")
                dead.append(program)
        time.sleep(self.rng.uniform(0.0, PAUSE_S_MAX))
        self._revive(dead)

    def _roles(self) -> list[str]:
        roles = sorted({p.role for p in self.stage.programs if self._strikable(p.role)})
        roles += ["postgres"] if self.stage.postgres else []
        return [role for role in roles if not self.only or role in self.only]

    def _strikable(self, role: str) -> list[Program]:
        """Those that live, and do not wait for their fail-point."""
        now = time.monotonic()
        armed_s = GATEWAY_ARMED_S if role == "gateway" else ARMED_S
        return [
            program
            for program in self.stage.of(role)
            if program.code is None
            and (not program.failpoint or now - program.started_at > armed_s)
            # one that still loads would die again and again, and never sell anything
            and (not isinstance(program, Gateway) or program.has_begun)
        ]

    def _strike_postgres(self) -> None:
        postgres = self.stage.postgres
        assert postgres is not None, "among the roles only where there is one"
        how = postgres.kill(self.rng)
        self._database_gone_at = time.monotonic()
        self.report.killed("postgres", how)

    def _has_died(self, program: Program) -> bool:
        """Whether it has to be started again; counts what it died of."""
        code = program.code
        if code is None:
            return False
        if code == KILLED and program.failpoint:
            self._failpoints.note(program.role, program.failpoint, reached=True)
            self.report.killed(program.role, program.failpoint.partition(":")[0])
            return True
        if program.role in (*LOAD_ROLES, "gateway") and code == 0:
            return False
        if program.role == "gateway" and NO_MARKET in program.tail():
            self.report.gave_up[program.role] += 1
            return True
        if time.monotonic() - self._database_gone_at < DATABASE_GONE_S:
            self.report.gave_up[program.role] += 1
            return True
        raise RuntimeError(f"{program.name} ended by itself ({code}):\n{program.tail()}")

    def _revive(self, dead: Sequence[Program]) -> None:
        """Start them, wait until they serve, and look at the books."""
        if self.stage.postgres is not None:
            began_at = time.monotonic()
            self.stage.postgres.wait_ready()
            if began_at - self._database_gone_at < DATABASE_GONE_S:
                # it counts from when the database is back: its recovery takes as long as it takes
                self._database_gone_at = time.monotonic()
        for program in dead:
            self._start(program)
        for program in dead:
            self._wait_ready(program)
        self.checks.after_restart()
        self.report.restarts += len(dead)

    def _start(self, program: Program) -> None:
        arm = self.may_arm and self.rng.random() < ARMED_SHARE
        program.drop_log()
        program.start(self._failpoints.choose(program.role) if arm else "")

    def _wait_ready(self, program: Program) -> None:
        """It may die of its fail-point while it starts, and again."""
        give_up_at = time.monotonic() + READY_S
        while not self._is_ready(program):
            if self._has_died(program):
                self._start(program)
            if program.role in LOAD_ROLES and program.code == 0:
                return
            if time.monotonic() > give_up_at:
                raise RuntimeError(f"{program.name} is not ready:\n{program.tail()}")
            time.sleep(0.02)

    def _is_ready(self, program: Program) -> bool:
        if program.code is not None:
            return False
        match program.role:
            case "market":
                url = self.stage.options.markets[self.stage.of("market").index(program)]
                return Client((url,)).answers("/healthz")
            case "settle" | "payout":
                return "Doing " in program.said()
            case _:
                return True
