"""Keeps the watch over a route's hops: asks it in time, sends probes, and notes who is lost."""

import asyncio
import time
from typing import Protocol

from node.head.watch import Watch
from protocol.errors import ErrorCode
from protocol.frame import Frame, Probe
from protocol.head_session import HeadSession
from protocol.session import SessionState

__all__ = ["Vigil", "Watched"]

LOOK_PERIOD_S = 0.3
"""How often the watch is asked at least while nothing is late."""

_OPENING = (SessionState.OPENING, SessionState.REPAIRING)


class Watched(Protocol):
    """The hops as the vigil needs them."""

    watch: Watch

    @property
    def living(self) -> set[int]: ...

    async def tell(self, index: int, frame: Frame) -> None: ...

    def lose(self, index: int, code: ErrorCode, reason: str) -> None: ...


class Vigil:
    """One task for all epochs of a route."""

    def __init__(self, hops: Watched, session: HeadSession) -> None:
        self._hops = hops
        self._session = session
        self._veterans: frozenset[int] = frozenset()
        self._probing: dict[int, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None

    def begin(self, veterans: frozenset[int]) -> None:
        """An epoch opens. `veterans` were on the route before it, and read their stream already."""
        self._veterans = veterans
        if self._task is None:
            self._task = asyncio.create_task(self._keep())

    def stop(self) -> None:
        for task in (self._task, *self._probing.values()):
            if task is not None:
                task.cancel()

    def probe(self) -> None:
        """A round of probes to every hop that takes them: those that are open in this epoch.

        Beside everything else: a stream that takes nothing must not keep the others unasked.
        """
        opening = self._session.state in _OPENING
        whom = [
            index for index in self._hops.living
            if not opening or index in self._veterans or self._session.has_opened(index)
        ]  # fmt: skip
        nonce = self._hops.watch.probe(whom, time.monotonic())
        for index in whom:
            if index not in self._probing or self._probing[index].done():
                probe = Probe(self._session.session_id, nonce)
                self._probing[index] = asyncio.create_task(self._hops.tell(index, probe))

    async def _keep(self) -> None:
        watch = self._hops.watch
        while True:
            now_s = time.monotonic()
            due_s = watch.due_s(now_s)
            wait_s = LOOK_PERIOD_S if due_s is None else min(due_s - now_s, LOOK_PERIOD_S)
            if wait_s > 0:
                await asyncio.sleep(wait_s)
                continue
            for lost in watch.lost(now_s):
                self._hops.lose(lost.index, ErrorCode.TIMED_OUT, lost.reason)
            self.probe()
