"""How fast this machine's engine decodes, from its own counters. Sans-IO."""

from typing import Final

from node.engine.base import EngineStatistics

__all__ = ["SpeedMeter"]

STEPS_MIN: Final = 16
"""Fewer steps between two looks say too little."""
ROWS_PER_STEP_MAX: Final = 1.5
"""More rows a step: that was prefill or a batch, whose speed is another one."""
CHANGE_MIN: Final = 0.2
"""A figure within a fifth of the last is the same: it goes to every member, and into plans."""


class SpeedMeter:
    """Token-layers per second of one sequence's decode."""

    def __init__(self) -> None:
        self._last: EngineStatistics | None = None
        self._speed = 0

    def measure(self, statistics: EngineStatistics, layers: int) -> int:
        """The newest figure, 0 before the first. Give it every look's counters in turn."""
        last, self._last = self._last, statistics
        if last is None or statistics.steps < last.steps:
            return self._speed
        steps, rows = statistics.steps - last.steps, statistics.rows - last.rows
        busy_s = statistics.busy_s - last.busy_s
        if steps >= STEPS_MIN and rows <= ROWS_PER_STEP_MAX * steps and busy_s > 0:
            speed = max(1, round(steps * layers / busy_s))
            if abs(speed - self._speed) > CHANGE_MIN * self._speed:
                self._speed = speed
        return self._speed
