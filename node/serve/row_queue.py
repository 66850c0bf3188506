"""Rows on their way into the engine, in order, with where they came from."""

import asyncio
from collections import deque
from typing import NamedTuple

from protocol.errors import RemoteProtocolError
from protocol.frame import Replay, Step, Truncate
from protocol.identity import PeerId
from protocol.session import STEPS_IN_FLIGHT_MAX

__all__ = ["QueuedRows", "RowQueue"]

STEPS_QUEUED_MAX = 2 * STEPS_IN_FLIGHT_MAX + 1
"""Steps and truncates that wait: a truncate before each step in flight, and one behind."""

MIRRORED_QUEUED_MAX = 1024
"""Truncates that wait at a standby: it may lag behind many drafts, and each is some bytes."""

REPLAYS_QUEUED_MAX = 4
"""Replays of a link that wait before their sender is made to: what one engine step takes at once,
and as much behind it."""

REPLAY_STEP_ROWS = 256
"""Rows of waiting replays that go into one engine step."""


class QueuedRows(NamedTuple):
    """`source`: who sent it, None where this hop did."""

    frame: Step | Replay | Truncate
    source: PeerId | None


class RowQueue:
    """Of one epoch. One task takes, one or two put."""

    def __init__(self, *, is_mirror: bool) -> None:
        """`is_mirror`: of a standby, which no head counts as on its way."""
        self._waiting: deque[QueuedRows] = deque()
        self._replays = 0
        self._others_max = MIRRORED_QUEUED_MAX if is_mirror else STEPS_QUEUED_MAX
        self._came = asyncio.Event()
        self._taken = asyncio.Event()

    def put(self, frame: Step | Replay | Truncate, source: PeerId | None) -> None:
        """Behind the others; raises RemoteProtocolError when too much was sent ahead.

        Replays are bounded by the rows the session may hold, and on a link by `wait_room`.
        """
        if isinstance(frame, Replay):
            self._replays += 1
        elif len(self._waiting) - self._replays >= self._others_max:
            raise RemoteProtocolError(f"More than {self._others_max} steps were sent ahead.")
        self._waiting.append(QueuedRows(frame, source))
        self._came.set()

    async def wait_room(self) -> None:
        """Until few enough replays wait."""
        while self._replays > REPLAYS_QUEUED_MAX:
            self._taken.clear()
            await self._taken.wait()

    async def take(self) -> QueuedRows:
        """The next; waits for it."""
        while not self._waiting:
            self._came.clear()
            await self._came.wait()
        return self._take_first()

    def take_adjacent(self, first: Replay, source: PeerId | None) -> list[Replay]:
        """`first` and the replays right behind it that fit one engine step with it."""
        taken, rows = [first], first.count
        while self._waiting:
            frame, other = self._waiting[0]
            if not isinstance(frame, Replay) or other != source:
                break
            if rows + frame.count > REPLAY_STEP_ROWS:
                break
            rows += frame.count
            self._take_first()
            taken.append(frame)
        return taken

    def _take_first(self) -> QueuedRows:
        queued = self._waiting.popleft()
        if isinstance(queued.frame, Replay):
            self._replays -= 1
            self._taken.set()
        return queued
