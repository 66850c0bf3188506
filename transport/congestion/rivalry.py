"""Sharing a line with a flow that fills its queue, and noticing when that flow has left."""

from typing import Final

from transport.congestion.cubic import CubicWindow

__all__ = ["Rivalry"]

_TEST_FIRST_S: Final = 3.0
_TEST_LAST_S: Final = 16.0
"""How long to compete before asking whether the other has left; doubled after each no. A test
gives up what we have in the queue, some per cent of our share."""

_TEST_GAP_S: Final = 1.0
_EMPTIED: Final = 0.6
"""A queue that shrinks to this much of its longest: the other has left, or asks the same itself.
Then two of ours ask at once, and both see an empty queue."""


class Rivalry:
    """Made when the other flow is noticed; `cubic` is our window beside it."""

    __slots__ = ("_queue_peak_s", "_since", "_test_after_s", "cubic")

    def __init__(self, now: float, cubic: CubicWindow) -> None:
        self.cubic = cubic
        self._since = now
        self._test_after_s = _TEST_FIRST_S
        self._queue_peak_s = 0.0

    def resume(self, now: float) -> None:
        """A test found it still there."""
        self._since = now
        self._test_after_s = min(2 * self._test_after_s, _TEST_LAST_S)
        self._queue_peak_s = 0.0

    def is_test_due(self, now: float, queue_s: float) -> bool:
        self._queue_peak_s = max(self._queue_peak_s, queue_s)
        elapsed = now - self._since
        is_emptying = queue_s < _EMPTIED * self._queue_peak_s and elapsed > _TEST_GAP_S
        return is_emptying or elapsed >= self._test_after_s
