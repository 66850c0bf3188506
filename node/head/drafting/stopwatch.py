"""What steps took, told to the pace: by when they were sent, when their results came, and how.

A step that travelled alone tells how long a trip is; one that followed another, how far apart steps
come; one that the last hop fed on by itself, how long a loop is. No clock here.
"""

from collections import deque
from dataclasses import dataclass

from node.head.drafting.pace import Pace

__all__ = ["Stopwatch"]


@dataclass(frozen=True, slots=True)
class _Sent:
    rows: int
    drafted: int
    at_s: float
    is_alone: bool
    is_prefill: bool = False
    is_looped: bool = False


class Stopwatch:
    """Of the live steps of one session, which come back in the order they were sent."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._under_way: deque[_Sent] = deque()
        self._came_at_s = 0.0
        """When the result before came."""

    def sent_chunk(self, rows: int, now_s: float) -> None:
        """A chunk of the prompt is leaving."""
        is_alone = not self._under_way
        self._under_way.append(_Sent(rows, 0, now_s, is_alone, is_prefill=True))

    def sent(self, rows: int, drafted: int, now_s: float, *, is_alone: bool) -> None:
        """A step is leaving. `is_alone`: with nothing else on its way, void steps included."""
        self._under_way.append(_Sent(rows, drafted, now_s, is_alone))

    def came(self, now_s: float, *, fed_on: bool) -> None:
        """The oldest step's result is here. `fed_on`: and the next step left with it."""
        before_s, self._came_at_s = self._came_at_s, now_s
        step = self._under_way.popleft()
        elapsed_s, gap_s = now_s - step.at_s, now_s - before_s
        if step.is_prefill:
            if step.is_alone:
                self._pace.steps.note_prefill(step.rows, elapsed_s)
        elif step.is_looped:
            self._pace.note_loop(gap_s)
        elif step.is_alone:
            self._pace.note_step(step.rows, elapsed_s, drafted=step.drafted)
        elif before_s > step.at_s:
            self._pace.note_behind(step.rows, elapsed_s, gap_s)
        if fed_on:
            self._under_way.append(_Sent(1, 0, now_s, is_alone=False, is_looped=True))

    def voided(self) -> int:
        """The steps under way were taken back: their results never come. Says how many."""
        count = len(self._under_way)
        self._under_way.clear()
        return count
