"""The named moments at which a process can be made to die: found in the source, so that none is
forgotten, and tried by each process in which they could be reached."""

import random
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.ledger_kills.moments import GATEWAY_POINTS

__all__ = ["Failpoints", "named_in"]

ROOT = Path(__file__).parents[2]
CALL = re.compile(r"\breach\(\s*f?\"([a-z_.]+)\"", re.MULTILINE)
FOLDERS = ("ledger", "marketplace", "node", "benchmarks/ledger_kills")
MISSED_MAX = 3
"""A point that was not reached so often in a kind of process is left out there."""
ROOMS: Mapping[str, tuple[str, ...]] = {
    "market": ("commit.", "payments.checkout.", "receipts.", "leases."),
    "settle": ("commit.", "balances.", "settle.", "log.", "payments.webhook."),
    "payout": ("commit.", "payouts."),
    "head": ("head.",),
    "load": ("load.",),
    "payee": ("payee.",),
    "gateway": ("gateway.",),
}
"""Where each kind of process comes by. Cards, refunds and approvals are not in the workload: their
points are for the tests of their rooms."""
TIMES_MAX = {
    "market": 120,
    "settle": 6,
    "payout": 4,
    "head": 120,
    "load": 12,
    "payee": 10,
    "gateway": 4,
}
"""The point is passed up to so many times before it kills: more where it is passed often."""


def named_in(*folders: str) -> set[str]:
    """Every name that is given to `reach` in these folders of the repository."""
    found: set[str] = set()
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            found.update(CALL.findall(path.read_text()))
    return found


@dataclass(slots=True)
class Failpoints:
    """Which points are tried where, and what came of it."""

    rng: random.Random
    reached: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By role and name."""
    missed: Counter[tuple[str, str]] = field(default_factory=Counter)
    names: frozenset[str] = field(default_factory=lambda: GATEWAY_POINTS | named_in(*FOLDERS))

    def choose(self, role: str) -> str:
        """NAME:COUNT for a new life of such a process, or empty if it has none."""
        names = sorted(self._of(role))
        if not names:
            return ""
        # what was reached least comes first, so that every point has its turn
        fewest = min(self.reached[role, name] + self.missed[role, name] for name in names)
        name = self.rng.choice(
            [n for n in names if self.reached[role, n] + self.missed[role, n] <= fewest + 1]
        )
        # a point that was missed once is passed seldom: the first time must do. Else it is mostly
        # an early time, and now and then a late one
        most = 1 if self.missed[role, name] else TIMES_MAX.get(role, 4)
        times = int(most ** self.rng.random())
        return f"{name}:{times}"

    def note(self, role: str, failpoint: str, *, reached: bool) -> None:
        name = failpoint.partition(":")[0]
        (self.reached if reached else self.missed)[role, name] += 1

    def _of(self, role: str) -> Collection[str]:
        return [
            name
            for name in self.names
            if name.startswith(ROOMS.get(role, ()))
            and (self.reached[role, name] > 0 or self.missed[role, name] < MISSED_MAX)
        ]
