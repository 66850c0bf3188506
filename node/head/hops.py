"""The hops of one route as the head reaches them: opened, told, watched, and lost one by one.

What a hop says of itself and of its neighbours is taken here (OPENED, PROGRESS, ERROR, silence);
all else it sends is handed on. A hop that is lost is only noted: who waits will see it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from node.head.line import HopLine
from node.head.opening import Opening, Resumption
from node.head.row_link import RowLink
from node.head.standbys import Standbys
from node.head.vigil import Vigil
from node.head.watch import Watch
from node.router.base import RoutePlan
from protocol.errors import (
    ErrorCode,
    HopFailed,
    LocalProtocolError,
    PieceworkError,
    RemoteProtocolError,
)
from protocol.frame import (
    Attach,
    ErrorFrame,
    Frame,
    Opened,
    Progress,
    Replay,
    Step,
    Truncate,
)
from protocol.head_session import HeadSession
from protocol.session import SessionState
from transport.base import Host
from transport.errors import TransportError

__all__ = ["RouteHops"]

REPAIR_DIAL_TIMEOUT_S = 2.5
"""A hop that is to take another's place must be reached in this time, or the next one is tried."""

logger = logging.getLogger(__name__)
_OPENING = (SessionState.OPENING, SessionState.REPAIRING)


class RouteHops:
    """Lines to the hops of `plan`. `take` gets every frame that is not dealt with here."""

    def __init__(
        self,
        host: Host,
        plan: RoutePlan,
        session: HeadSession,
        opening: Opening,
        standbys: Standbys,
        *,
        row_bytes: int,
        take: Callable[[int, Frame], Awaitable[None]],
    ) -> None:
        self.plan = plan
        self.lines: dict[int, HopLine] = {}
        self.lost: dict[int, HopFailed] = {}
        """Hops that this epoch has lost, and how."""
        self.failure: PieceworkError | None = None
        """What no repair can help."""
        self.changed = asyncio.Event()
        self.watch = Watch(len(plan.route.hops), row_bytes, time.monotonic())
        self._host = host
        self._session = session
        self._opening = opening
        self._standbys = standbys
        self._take_rest = take
        self._rows: RowLink | None = None
        """Of this epoch, to hop 0; None until it stands."""
        self._retired: list[HopLine] = []
        self._vigil = Vigil(self, session)

    @property
    def living(self) -> set[int]:
        """Hops whose stream stands."""
        return {index for index, line in self.lines.items() if not line.is_over}

    async def open(self, at: Resumption, new: frozenset[int], *, timeout_s: float) -> None:
        """Send every OPEN of an epoch and wait for every OPENED; `new` are dialled first.

        Raises the HopFailed of the first hop that is lost meanwhile.
        """
        self._vigil.begin(frozenset(range(len(self.plan.route.hops))) - new)
        for index in list(self._standbys.hops):
            if index in new and self._is_standby(index):
                continue
            frame = self._opening.frame(self.plan, index, at, standby=True)
            self._standbys.open(index, frame)
        opens = [
            asyncio.create_task(self._open_hop(index, at, is_new=index in new, timeout_s=timeout_s))
            for index in range(len(self.plan.route.hops))
        ]
        try:
            async with asyncio.timeout(timeout_s):
                while self._session.state in _OPENING or self._rows is None:
                    self.raise_failure()
                    await self.wait_change()
        except TimeoutError:
            silent = next((i for i in range(len(opens)) if not self._session.has_opened(i)), 0)
            self.lose(silent, ErrorCode.TIMED_OUT, "it did not open in time")
            raise self.lost[silent] from None
        finally:
            for task in opens:
                task.cancel()
            await asyncio.gather(*opens, return_exceptions=True)
        self._vigil.probe()  # measures the round trips while nothing is late yet

    def replace(self, plan: RoutePlan, lost: frozenset[int]) -> None:
        """The route is that of `plan` from now on; let go of the hops that were lost."""
        self.plan = plan
        if self._rows is not None:
            self._rows.drop()
            self._rows = None
        for index in lost:
            if line := self.lines.pop(index, None):
                line.drop(ErrorCode.PEER_GONE)
                self._retired.append(line)
        self.lost.clear()
        self.watch.waiting(time.monotonic())

    async def tell_rows(self, frame: Step | Replay | Truncate) -> None:
        """Send rows to hop 0; as `tell`."""
        if self._rows is None:
            return
        try:
            await self._rows.send(frame)
        except TransportError as error:
            self.lose(0, ErrorCode.PEER_GONE, error.message)

    async def tell(self, index: int, frame: Frame) -> None:
        """Send a frame; a hop that cannot be told is lost, and the caller goes on."""
        line = self.lines.get(index)
        if line is None or line.is_over:
            return
        try:
            await line.send(frame)
        except TransportError as error:
            self.lose(index, ErrorCode.PEER_GONE, error.message)

    def lose(self, index: int, code: ErrorCode, reason: str) -> None:
        """Note that a hop is lost, once."""
        if self._session.state in (SessionState.CLOSING, SessionState.CLOSED):
            return
        if index not in self.lost:
            peer = self.plan.route.hops[index].peer_id.short
            self.lost[index] = HopFailed(index, peer, code, reason)
            logger.info("epoch %d: %s", self._session.epoch, self.lost[index])
        self.changed.set()

    def give_up(self, error: PieceworkError) -> None:
        """Note what no other hop would cure."""
        self.failure = self.failure or error
        self.changed.set()

    def raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure
        if self.lost:
            raise next(iter(self.lost.values()))

    async def wait_change(self) -> None:
        """Until something has come or gone. One waiter."""
        await self.changed.wait()
        self.changed.clear()

    def stop_watching(self) -> None:
        self._vigil.stop()

    async def stop(self) -> None:
        """Let go of every stream."""
        if self._rows is not None:
            self._rows.drop()
        for line in (*self.lines.values(), *self._retired):
            await line.stop()
            line.finish()

    async def _open_hop(
        self, index: int, at: Resumption, *, is_new: bool, timeout_s: float
    ) -> None:
        try:
            if is_new:
                dial_s = timeout_s if at.epoch == 0 else REPAIR_DIAL_TIMEOUT_S
                self.lines[index] = await self._line(index, dial_s)
                self.watch.replaced(index, time.monotonic())
            mirror = self._standbys.hops.get(index + 1)
            await self.lines[index].send(self._opening.frame(self.plan, index, at, mirror=mirror))
            if index == 0:
                attach = Attach(self._session.session_id, at.epoch, 0)
                hop = self.plan.route.hops[0]
                self._rows = await RowLink.attach(self._host, hop, attach, timeout_s=timeout_s)
                self.changed.set()
        except TransportError as error:
            self.lose(index, ErrorCode.PEER_GONE, error.message)
        except RemoteProtocolError as error:
            self.lose(index, ErrorCode.MALFORMED, error.message)
        except TimeoutError:
            self.lose(index, ErrorCode.PEER_GONE, "it could not be reached in time")

    async def _line(self, index: int, timeout_s: float) -> HopLine:
        """A stream to a hop that is new on the route: its standby's own, or a fresh one."""
        if self._is_standby(index) and (line := self._standbys.promote(index)):
            line.hand_over(self._take, self._over)
            return line
        line = HopLine(index, self.plan.route.hops[index], take=self._take, over=self._over)
        await line.dial(self._host, timeout_s=timeout_s)
        return line

    def _is_standby(self, index: int) -> bool:
        standby = self._standbys.hops.get(index)
        return standby is not None and standby.peer_id == self.plan.route.hops[index].peer_id

    async def _take(self, line: HopLine, frame: Frame) -> None:
        index = line.index
        if self.lines.get(index) is not line:
            return
        self.watch.heard(index)
        match frame:
            case Opened():
                if self._session.accept_opened(index, frame):
                    self.watch.arrived(
                        time.monotonic(), still_waiting=False, rows=self._session.rows_arrived,
                        is_measured=False,
                    )  # fmt: skip
            case Progress():
                self.watch.progress(
                    index, frame.nonce, frame.rows_in, frame.rows_out, time.monotonic()
                )
            case ErrorFrame():
                self._take_error(line, frame)
            case _:
                await self._hand_on(index, frame)
        self.changed.set()

    async def _hand_on(self, index: int, frame: Frame) -> None:
        """What one hop sends may show that another is at fault."""
        try:
            await self._take_rest(index, frame)
        except HopFailed as error:
            self.lose(error.hop_index, error.code, error.reason)

    def _take_error(self, line: HopLine, frame: ErrorFrame) -> None:
        """A hop may name a neighbour as the one that was lost, and then goes on living.

        A peer that is no neighbour was one, and a word of an earlier epoch is late: the repair that
        it asks for is under way.
        """
        index, hops = line.index, self.plan.route.hops
        if frame.about is None:
            raise HopFailed(index, hops[index].peer_id.short, frame.code, frame.message)
        count = len(hops)
        if frame.epoch < self._session.epoch:
            return
        if index == 0 and frame.about == self._host.peer_id:
            self.lose(0, frame.code, frame.message)  # our own link to it has failed
            return
        near = {index - 1, index + 1}
        if not self.plan.route.sealed and index in (0, count - 1):
            near.add(count - 1 - index)  # the two ends of the loop
        for neighbour in near:
            if 0 <= neighbour < count and hops[neighbour].peer_id == frame.about:
                self.lose(neighbour, frame.code, frame.message)

    def _over(self, line: HopLine, cause: PieceworkError | None) -> None:
        if self.lines.get(line.index) is not line:
            return
        match cause:
            case None:
                self.lose(line.index, ErrorCode.PEER_GONE, "it closed the stream")
            case LocalProtocolError():
                self.give_up(cause)
            case HopFailed():
                self.lose(line.index, cause.code, cause.reason)
            case TransportError():
                self.lose(line.index, ErrorCode.PEER_GONE, cause.message)
            case _:
                self.lose(line.index, ErrorCode.MALFORMED, cause.message)
        self.changed.set()
