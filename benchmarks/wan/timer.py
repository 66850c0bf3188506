"""Waiting to the microsecond in an event loop whose own timers have steps of a millisecond.

A timerfd of the kernel's monotonic clock, which is also that of `time.monotonic`. Linux only, as
the bed is. (os.timerfd_create comes with Python 3.13.) How late the kernel wakes a sleeper, 0.1 ms
on an idle virtual machine, is learned and made up for.
"""

import asyncio
import ctypes
import os
from time import monotonic
from typing import Final

__all__ = ["Timer"]

CLOCK_MONOTONIC: Final = 1
TFD_TIMER_ABSTIME: Final = 1
TFD_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC
NANOSECONDS: Final = 1_000_000_000

LATENESS_MAX_S: Final = 0.0005
LEARNING: Final = 0.1


class _Spec(ctypes.Structure):
    """struct itimerspec: interval, then value, each seconds and nanoseconds."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Timer:
    """One deadline at a time. Make, use and close it in one event loop."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._lateness_s = 0.0
        self._descriptor: int = self._library.timerfd_create(CLOCK_MONOTONIC, TFD_FLAGS)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop.add_reader(self._descriptor, self._ring)

    async def until(self, deadline: float) -> None:
        """Wait until `time.monotonic()` is `deadline` seconds; at once if it is past."""
        asked_at = deadline - self._lateness_s
        if asked_at <= monotonic():
            return
        nanoseconds = int(asked_at * NANOSECONDS)
        spec = _Spec(0, 0, *divmod(nanoseconds, NANOSECONDS))
        self._waiter = self._loop.create_future()
        how = TFD_TIMER_ABSTIME
        if self._library.timerfd_settime(self._descriptor, how, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        await self._waiter
        late_s = min(LATENESS_MAX_S, max(0.0, monotonic() - asked_at))
        self._lateness_s += LEARNING * (late_s - self._lateness_s)

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _ring(self) -> None:
        os.read(self._descriptor, 8)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
