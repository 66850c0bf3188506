"""A rate of events that forgets: exponentially weighted, two numbers of state."""

import math

__all__ = ["Rate"]


class Rate:
    """Events per second over about the last `window_s`; `now` is the caller's clock."""

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
