"""Figures of late: a rate of events that forgets, and the last few values of something."""

import math
from collections import deque
from collections.abc import Iterable

__all__ = ["Rate", "Recent"]


VALUES_MAX = 256
"""Values kept: enough for a 95th percentile, and sorted in some 20 microseconds when asked."""


class Recent:
    """The last VALUES_MAX values that were added."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=VALUES_MAX)

    def add(self, value: float) -> None:
        self._values.append(value)

    def extend(self, values: Iterable[float]) -> None:
        self._values.extend(values)

    def mean(self) -> float:
        """0 before the first value."""
        return sum(self._values) / len(self._values) if self._values else 0.0

    def quantile(self, share: float) -> float:
        """The smallest value that `share` (0 to 1) of them do not exceed; 0 before the first."""
        if not self._values:
            return 0.0
        return sorted(self._values)[max(math.ceil(share * len(self._values)) - 1, 0)]


class Rate:
    """Events per second over about the last `window_s`: exponentially weighted, `now` is given."""

    def __init__(self, window_s: float, now: float) -> None:
        self._window_s = window_s
        self._started_at = now
        self._updated_at = now
        self._weight = 0.0

    def add(self, count: int, now: float) -> None:
        self._weight = self._decayed(now) + count
        self._updated_at = now

    def per_s(self, now: float) -> float:
        """The rate; unbiased from the first event on, also before a window has gone by."""
        age_s = now - self._started_at
        if age_s <= 0:
            return 0.0
        return self._decayed(now) / (self._window_s * -math.expm1(-age_s / self._window_s))

    def _decayed(self, now: float) -> float:
        return self._weight * math.exp(-(now - self._updated_at) / self._window_s)
