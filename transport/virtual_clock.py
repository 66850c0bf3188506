"""An event loop whose clock jumps: sleeping takes no time, in the right order."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

__all__ = ["VirtualClockLoop", "run_virtual"]

T = TypeVar("T")

_STUCK_S: Final = 5.0
"""Real seconds to wait for another thread before the program is called stuck."""


class _JumpingSelector(selectors.DefaultSelector):
    """When nothing is ready, the wait for the next timer is added to the clock instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            ready = super().select(_STUCK_S)
            if not ready:
                raise RuntimeError("every task waits, and no timer will wake one")
            return ready
        self.now += timeout
        return ready


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """For in-memory networks only: real sockets and threads do not know its clock."""

    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._clock.now


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, in a loop whose sleeps jump."""
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        return runner.run(main)
