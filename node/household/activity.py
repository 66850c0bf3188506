"""Whether somebody uses this machine: what processes other than ours take of its processors.

Only the sum of CPU time is looked at, never which programs run. Where a graphics card is busy with
something else the node's own rate falls, which the marketplace sees; this does not look there.
"""

import os
from typing import Final

import psutil

__all__ = ["BUSY_SHARE", "OwnerActivity"]

BUSY_SHARE: Final = 0.25
"""Of all processors, taken by others: above what an idle desktop does, below one busy program on
a machine of four."""


class OwnerActivity:
    """Looks at CPU times between two calls of `quiet_s`."""

    def __init__(self) -> None:
        self._own = psutil.Process(os.getpid())
        self._last: tuple[float, float, float] | None = None
        self._busy_at: float | None = None

    def quiet_s(self, now: float) -> float:
        """Seconds since others last kept the machine busy; `now` is monotonic. The first call only
        begins to look, and takes the machine for quiet."""
        busy, own = self._busy_s(), self._own_s()
        last, self._last = self._last, (now, busy, own)
        if last is not None and now > last[0]:
            others = (busy - last[1]) - (own - last[2])
            if others / (now - last[0]) > BUSY_SHARE * (psutil.cpu_count() or 1):
                self._busy_at = now
        return float("inf") if self._busy_at is None else now - self._busy_at

    def _busy_s(self) -> float:
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        return sum(times[: len(times)]) - idle - getattr(times, "guest", 0.0)

    def _own_s(self) -> float:
        """Of this process and its children: the engine is one."""
        total = 0.0
        for process in (self._own, *self._own.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total
