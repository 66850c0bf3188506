"""A timer that is set far more often than it fires."""

import asyncio
from collections.abc import Callable
from time import monotonic

__all__ = ["LazyTimer"]


class LazyTimer:
    """Calls back at or before the time set last.

    Setting a later time costs nothing: the callback comes early, finds nothing due and sets the
    timer again. QUIC moves its timers with every datagram, so this is the cheap order.
    """

    __slots__ = ("_at", "_callback", "_handle", "_loop")

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._at = 0.0

    def set(self, at: float) -> None:
        """`at` is in `time.monotonic` seconds; uvloop's own clock has steps of 1 ms."""
        if self._handle is not None:
            if self._at <= at:
                return
            self._handle.cancel()
        self._at = at
        self._handle = self._loop.call_later(max(0.0, at - monotonic()), self._fire)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        self._handle = None
        self._callback()
