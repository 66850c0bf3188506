"""What the round trips of a path say: how long it is, and whether a queue stands in it."""

from math import inf
from typing import Final

__all__ = ["RoundTrips"]

_AGE_S: Final = 10.0
"""The shortest not seen for so long: worth draining the path to see it again."""

_BASE_AGE_S: Final = 120.0
"""Not seen for so long although we drained: the route has changed, and the path is longer."""

_RTT_LEAST_S: Final = 0.0001
"""No path outside a machine is shorter; and rates are bytes over a round trip."""


class RoundTrips:
    """In seconds; owned by one controller. Fresh for every path."""

    __slots__ = ("_seen_at", "cycle_floor_s", "min_s", "round_floor_s", "smoothed_s")

    def __init__(self) -> None:
        self.min_s = inf
        """The path's own round trip, as far as known: the queue is what lies above."""
        self.smoothed_s = 0.0
        self.round_floor_s = inf
        """The shortest since the controller has reset it: once a round trip."""
        self.cycle_floor_s = inf
        """The same, once a cycle of phases."""
        self._seen_at = 0.0

    @property
    def queue_s(self) -> float:
        return self.smoothed_s - self.min_s

    def note(self, now: float, rtt_s: float) -> None:
        rtt_s = max(rtt_s, _RTT_LEAST_S)
        smoothed = self.smoothed_s
        self.smoothed_s = smoothed + (rtt_s - smoothed) / 8 if smoothed else rtt_s
        if rtt_s < self.cycle_floor_s:
            self.cycle_floor_s = rtt_s
        if rtt_s < self.round_floor_s:
            self.round_floor_s = rtt_s
        if rtt_s < self.min_s:
            self.min_s = rtt_s
        if rtt_s <= 1.05 * self.min_s + 0.001:
            self._seen_at = now

    def take_round_floor(self) -> float:
        floor, self.round_floor_s = self.round_floor_s, inf
        return floor

    def is_stale(self, now: float) -> bool:
        return now - self._seen_at > _AGE_S

    def is_longer(self, floor_s: float) -> bool:
        """Whether a round without a shorter one than `floor_s` had a queue from end to end."""
        return floor_s - self.min_s > max(0.005, min(self.min_s / 4, 0.025))

    def is_standing(self, floor_s: float) -> bool:
        """Whether a shortest round trip of `floor_s` means that the queue never ran empty."""
        return floor_s > 1.4 * self.min_s + 0.005

    def is_far_above(self, floor_s: float) -> bool:
        return floor_s > 2 * self.min_s + 0.005

    def has_rival(self, now: float, floor_s: float) -> bool:
        """As `is_standing`, where we have drained what is ours. Sets a stale minimum right."""
        if self.is_standing(floor_s) and now - self._seen_at < _BASE_AGE_S:
            return True
        if self.is_stale(now):
            self.min_s, self._seen_at = floor_s, now
        return False
