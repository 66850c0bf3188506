"""The standbys of a route, as its head keeps them: opened, fed where the head feeds, or gone.

A standby is a peer that could take a hop's place and is brought along: the hop before it sends it a
copy of what it sends on, and hop 0's gets its rows from the head. A standby is never waited for,
and its loss is nobody's failure: nothing here raises.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from node.head.line import HopLine
from node.head.row_link import RowLink
from protocol.errors import ErrorCode, PieceworkError
from protocol.frame import (
    Attach,
    Close,
    ErrorFrame,
    Frame,
    LinkRole,
    Open,
    Replay,
    Truncate,
)
from protocol.route import Hop
from transport.base import Host
from transport.errors import TransportError

__all__ = ["Standbys"]

STANDBY_DIAL_TIMEOUT_S = 5.0
"""A standby that takes longer to reach would be no quick help."""
FEED_ROWS_MAX = 64
"""Rows of one REPLAY to hop 0's standby: small, for they share the head's uplink with steps."""

logger = logging.getLogger(__name__)


class Standbys:
    """At most one standby a hop. `replay(start, stop)` gives a REPLAY of the session's rows."""

    def __init__(
        self,
        host: Host,
        hops: Mapping[int, Hop],
        replay: Callable[[int, int], Awaitable[Replay]],
    ) -> None:
        self.hops = dict(hops)
        """Those still believed in, by the index of the hop they stand by for."""
        self._host = host
        self._replay = replay
        self._lines: dict[int, HopLine] = {}
        self._rows: RowLink | None = None
        """To hop 0's standby, of this epoch."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._position = 0
        """Rows that hop 0 has been sent."""
        self._fed = 0
        """Rows that hop 0's standby has; what was taken back since is not among them."""
        self._taken_back: Truncate | None = None
        self._changed = asyncio.Event()

    def adopt(self, hops: Mapping[int, Hop]) -> None:
        """More of them, for the hops that have none."""
        self.hops = {**hops, **self.hops}

    def open(self, index: int, frame: Open) -> None:
        """Send OPEN in the background: in the first epoch on a stream of its own."""
        if index == 0:
            self._drop_rows()
        self._start(self._open(index, frame))

    def promote(self, index: int) -> HopLine | None:
        """Give a standby's stream away: it becomes the hop. None where it has none."""
        self.hops.pop(index, None)
        if index == 0:
            self._drop_rows()
        return self._lines.pop(index, None)

    def sent(self, position: int) -> None:
        """Hop 0 has been sent the rows before `position`."""
        self._position = position
        self._changed.set()

    def took_back(self, truncate: Truncate) -> None:
        """Hop 0 was told to forget rows."""
        self._position = truncate.position
        if truncate.position < self._fed:
            self._fed, self._taken_back = truncate.position, truncate
        self._changed.set()

    async def close(self, frame: Close) -> None:
        """Free what the standbys hold."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for index in list(self._lines):
            await self._send(index, frame)

    async def stop(self) -> None:
        """Let go of every stream; after `close`."""
        self._drop_rows()
        for line in self._lines.values():
            await line.stop()
            line.finish()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, index: int, frame: Open) -> None:
        line = self._lines.get(index)
        if line is None:
            line = HopLine(index, self.hops[index], take=self._take, over=self._over)
            try:
                await line.dial(self._host, timeout_s=STANDBY_DIAL_TIMEOUT_S)
            except (TransportError, TimeoutError) as error:
                self._lose(index, error)
                return
            self._lines[index] = line
        await self._send(index, frame)
        if index == 0:
            attach = Attach(frame.session_id, frame.epoch, 0, LinkRole.MIRROR)
            try:
                self._rows = await RowLink.attach(
                    self._host, line.hop, attach, timeout_s=STANDBY_DIAL_TIMEOUT_S
                )
            except (PieceworkError, TimeoutError) as error:
                self._lose(index, error)
                return
            await self._feed(self._rows)

    async def _feed(self, link: RowLink) -> None:
        """Bring hop 0's standby along, as long as that is its link."""
        self._fed, self._taken_back = link.rows, None
        while self._rows is link:
            self._changed.clear()
            if (truncate := self._take_taken_back()) is not None:
                await self._send_rows(link, truncate)
            elif self._fed < self._position:
                start, stop = self._fed, min(self._fed + FEED_ROWS_MAX, self._position)
                self._fed = stop  # first: what is taken back meanwhile must count
                try:
                    await self._send_rows(link, await self._replay(start, stop))
                except PieceworkError as error:
                    self._lose(0, error)
            else:
                await self._changed.wait()

    def _drop_rows(self) -> None:
        link, self._rows = self._rows, None
        if link is not None:
            link.drop()
        self._changed.set()

    def _take_taken_back(self) -> Truncate | None:
        truncate, self._taken_back = self._taken_back, None
        return truncate

    async def _send_rows(self, link: RowLink, frame: Replay | Truncate) -> None:
        try:
            await link.send(frame)
        except TransportError as error:
            self._lose(0, error)

    async def _send(self, index: int, frame: Frame) -> None:
        line = self._lines.get(index)
        if line is None:
            return
        try:
            await line.send(frame)
        except TransportError as error:
            self._lose(index, error)

    async def _take(self, line: HopLine, frame: Frame) -> None:
        match frame:
            case ErrorFrame():
                self._lose(line.index, PieceworkError(frame.message))

    def _over(self, line: HopLine, cause: PieceworkError | None) -> None:
        if self._lines.get(line.index) is line:
            self._lose(line.index, cause)

    def _lose(self, index: int, cause: BaseException | None) -> None:
        self.hops.pop(index, None)
        if index == 0:
            self._drop_rows()
        if line := self._lines.pop(index, None):
            line.drop(ErrorCode.PEER_GONE)
        logger.info("the standby of hop %d is gone: %s", index, cause or "it closed the stream")
