"""Time in which this process ran: a stalled event loop must not take itself for a silent peer.

A process that was stopped, swapped out or busy comes back with a clock that has jumped. Whoever
judges silence by such a clock would declare everybody dead at once. Here a timer that fires late
moves the clock back by as much as it was late. No I/O; `now` is an argument (monotonic seconds).
"""

import math
from typing import Final

__all__ = ["STALL_S", "AwakeClock"]

STALL_S: Final = 0.4
"""Lateness of a timer that is no stall: a busy event loop, not a sleeping one."""


class AwakeClock:
    """Tell it when the next timer is due, and read it with the real time."""

    __slots__ = ("_due", "slept_s")

    def __init__(self) -> None:
        self.slept_s = 0.0
        """What was taken off so far: real time is `awake + slept_s`."""
        self._due = math.inf

    def read(self, now: float) -> float:
        """Awake seconds at `now`. Call it on every event: the first one after a stall tells."""
        late = now - self._due
        if late > STALL_S:
            self.slept_s += late
            self._due = math.inf  # until the next timer is set
        return now - self.slept_s

    def expect(self, due: float) -> None:
        """A timer will fire at `due` (real time, may be infinite)."""
        self._due = due
