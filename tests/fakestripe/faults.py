"""What goes wrong between a client and the fake: by seed and rate, or by name for the next call.

A fault is chosen per request that moves something (POST and DELETE); reads can be made to fail by
name with `method="GET"`.
"""

import random
import threading
from collections import Counter, deque
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Fault", "Faults"]


class Fault(StrEnum):
    """One way to fail."""

    DROP_BEFORE = "drop_before"
    """The connection is cut and nothing happened."""
    DROP_AFTER = "drop_after"
    """It happened, its reply is kept under its key, and the connection is cut."""
    ERROR_BEFORE = "error_before"
    """A 500 from the edge; nothing happened and nothing is kept."""
    ERROR_STORED = "error_stored"
    """A 500 after nothing happened, which is kept and replayed for as long as the key lives."""
    ERROR_STORED_AFTER = "error_stored_after"
    """It happened, but the reply kept and replayed is a 500."""
    CONFLICT = "conflict"
    """409: the same key is being worked on."""
    RATE_LIMIT = "rate_limit"
    """429; nothing happened."""
    TIMEOUT = "timeout"
    """It happened, and the reply comes after `hang_s`, later than a client waits."""


@dataclass(frozen=True, slots=True)
class _Planned:
    fault: Fault
    method: str
    path: str


class Faults:
    """Chooses; `counts` says what was done. `rates`: a fault's share of all requests that move."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(0)
        self._rates: dict[Fault, float] = {}
        self._planned: deque[_Planned] = deque()
        self.counts: Counter[Fault] = Counter()
        self.hang_s = 3.0
        """How long a TIMEOUT keeps its reply."""

    def by_rate(self, rates: dict[Fault, float], *, seed: int) -> None:
        """From now on, of any hundred requests so many fail so."""
        assert sum(rates.values()) <= 1
        with self._lock:
            self._rates, self._random = dict(rates), random.Random(seed)

    def next(self, *faults: Fault, method: str = "POST", path: str = "") -> None:
        """The next requests of this method, whose path holds `path`, fail so, one after another."""
        with self._lock:
            self._planned.extend(_Planned(fault, method, path) for fault in faults)

    def stop(self) -> None:
        """Nothing fails any more."""
        with self._lock:
            self._rates = {}
            self._planned.clear()

    def choose(self, method: str, path: str) -> Fault | None:
        """What happens to this request."""
        with self._lock:
            fault = self._take(method, path)
            if fault is not None:
                self.counts[fault] += 1
            return fault

    def _take(self, method: str, path: str) -> Fault | None:
        for planned in self._planned:
            if planned.method == method and planned.path in path:
                self._planned.remove(planned)
                return planned.fault
        if method == "GET" or not self._rates:
            return None
        drawn = self._random.random()
        for fault, rate in self._rates.items():
            if drawn < rate:
                return fault
            drawn -= rate
        return None
