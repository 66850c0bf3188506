"""When a dead engine may be started again: at once the first time, then ever later, then never."""

from collections import deque
from dataclasses import dataclass

__all__ = ["RestartBudget", "RestartLimits"]


@dataclass(frozen=True, slots=True)
class RestartLimits:
    count_max: int = 4
    """Restarts within `window_s`; a process that dies more often will not get better alone."""

    window_s: float = 600.0
    """An engine that ran this long without dying starts again with a full budget."""

    delay_s: float = 1.0
    """Before the second restart of a window, doubled with each one after it."""


class RestartBudget:
    """Counts restarts. No clock here: `now` is the caller's, in seconds."""

    def __init__(self, limits: RestartLimits | None = None) -> None:
        self._limits = limits or RestartLimits()
        self._times: deque[float] = deque(maxlen=self._limits.count_max)

    def take(self, now: float) -> float | None:
        """Spend a restart: how long to wait before it, or None if none is left."""
        limits = self._limits
        while self._times and self._times[0] < now - limits.window_s:
            self._times.popleft()
        earlier = len(self._times)
        if earlier >= limits.count_max:
            return None
        self._times.append(now)
        return float(limits.delay_s * 2 ** (earlier - 1)) if earlier else 0.0
