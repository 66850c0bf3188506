"""One direction of a line: which frame is lost, which is held how long. Pure, the clock given."""

import random
from collections import deque
from dataclasses import dataclass
from typing import Final

__all__ = ["Counters", "Impairment", "Line"]

FRAMES_MAX: Final = 20_000  # held per direction: 100 Mbit/s of 1500 B for 2.4 s
JITTER_LIMIT: Final = 4  # times the standard deviation, so an outlier does not stall the line


@dataclass(frozen=True, slots=True)
class Impairment:
    """Of each direction. `loss` is a share, `jitter_ms` a standard deviation."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    reorders: bool = False


@dataclass(frozen=True, slots=True)
class Counters:
    """Frames of one direction so far: `overflowed` found the line full, or the far end down."""

    carried: int
    lost: int
    overflowed: int


class Line:
    """One direction: frames go in by `accept`, and come out of `due` when their time has come."""

    def __init__(self, impairment: Impairment) -> None:
        self.impairment = impairment
        self.held: deque[tuple[float, bytes]] = deque()
        self.carried = self.lost = self.overflowed = 0

    def accept(self, frame: bytes, now: float) -> None:
        how = self.impairment
        if how.loss and random.random() < how.loss:
            self.lost += 1
            return
        if len(self.held) >= FRAMES_MAX:
            self.overflowed += 1
            return
        delay_s, jitter_s = how.delay_ms / 1000, how.jitter_ms / 1000
        if jitter_s:
            spread = random.gauss(0, jitter_s)
            delay_s += max(-delay_s, min(JITTER_LIMIT * jitter_s, spread))
        due = now + delay_s
        if not how.reorders and self.held:
            due = max(due, self.held[-1][0])
        at = len(self.held)
        while at and self.held[at - 1][0] > due:
            at -= 1
        self.held.insert(at, (due, frame))

    def due(self, now: float) -> bytes | None:
        """The next frame whose time has come."""
        if self.held and self.held[0][0] <= now:
            return self.held.popleft()[1]
        return None
