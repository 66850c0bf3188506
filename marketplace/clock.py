"""The marketplace's clock, as a value that is handed in: tests bring their own."""

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Unix seconds now."""

    def now_s(self) -> int: ...


class SystemClock:
    """The machine's own clock."""

    def now_s(self) -> int:
        return int(time.time())
