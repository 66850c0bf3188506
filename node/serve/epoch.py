"""One epoch of a session at this hop: its links, and the tasks on them.

    link in     ──► REPLAY STEP TRUNCATE     attached by the hop before; hop 0: by the head
    loop in     ──► STEP                     hop 0 of an open route: attached by the last hop
    mirror in   ──► REPLAY TRUNCATE          a standby: attached by the hop before
    link out    ──► REPLAY STEP TRUNCATE     to the next hop; the last hop: RESULT to the head
    loop out    ──► STEP                     from the last hop to hop 0
    mirror out  ──► REPLAY TRUNCATE          to the next hop's standby

All are made anew in every epoch. A link that breaks does not end the session: its rows stay, and
the head, told who was lost, opens the next epoch. A standby's own link is nobody's loss.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import numpy as np

from node.serve.codes import gone
from node.serve.hop_state import HopState
from node.serve.links import ExpectedLink, Link
from node.serve.mirror import mirror_rows
from node.serve.onward import Onward, attach_onward
from node.serve.prefix import scoped_prefix
from node.serve.tasks import Tasks
from node.serve.work import StepWork
from protocol.errors import ErrorCode, NeighbourGone, RemoteProtocolError, SessionError
from protocol.frame import LinkRole, Replay, Step, Truncate
from protocol.session import OPEN_TIMEOUT_S, SessionState

__all__ = ["Epoch"]

_CARRIED: dict[LinkRole, tuple[type[Step | Replay | Truncate], ...]] = {
    LinkRole.STEPS: (Replay, Step, Truncate),
    LinkRole.LOOP: (Step,),
    LinkRole.MIRROR: (Replay, Truncate),
}

logger = logging.getLogger(__name__)


class Epoch:
    """Made for each OPEN. `tell_lost` is called once for each neighbour that is lost."""

    def __init__(
        self,
        state: HopState,
        tell_lost: Callable[[NeighbourGone], Awaitable[None]],
        *,
        rows: int | None = None,
    ) -> None:
        """`rows`: those that stay of the epoch before; None: the engine must begin a sequence."""
        self.work = StepWork(state)
        self._state = state
        self._tell_lost = tell_lost
        self._rows = rows
        self._expected = contextlib.ExitStack()
        self._incoming: list[tuple[LinkRole, ExpectedLink]] = []
        self._onward: Onward | None = None
        self._tasks = Tasks()
        self._main: asyncio.Task[None] | None = None
        self._working: asyncio.Task[None] | None = None
        self._told: set[bytes] = set()

    def start(self, tasks: Tasks) -> None:
        """Begin; among the owner's `tasks` one ends that raises what ends the session."""
        self._main = tasks.spawn(self._run())

    def stop(self) -> None:
        """Cancel all that works for this epoch; none of it reaches engine or stream any more."""
        if self._main is not None:
            self._main.cancel()
        self._tasks.cancel()

    @property
    def is_over(self) -> bool:
        """Whether none of its tasks is left."""
        return (self._main is None or self._main.done()) and not self._tasks.is_running

    async def join(self) -> None:
        """Wait for the end of its tasks; after `stop`."""
        if self._main is not None:
            await asyncio.gather(self._main, return_exceptions=True)
        await self._tasks.join()

    def end_links(self, *, is_void: bool) -> None:
        """Let go of every link. `is_void`: another epoch follows."""
        self._expected.close()
        if self._onward is not None:
            self._onward.end(is_void=is_void)

    async def _run(self) -> None:
        state, session = self._state, self._state.session
        rows = await self._open_engine() if self._rows is None else self._rows
        self._expect(rows)
        is_ready = self._tasks.spawn(self._ready_engine(rows))
        try:
            onward = self._onward = await attach_onward(state, rows)
        except NeighbourGone as error:
            if session.state is SessionState.OPENING:
                raise
            await self._lose(error)
            return
        state.rows_out = onward.rows
        session.ready(cached_tokens=rows)
        state.was_ready = True
        self._start(onward, is_ready)
        await state.head.send(state.opened())
        await self._watch_tasks()

    @property
    def _hop_index(self) -> int:
        return self._state.request.hop_index

    async def _open_engine(self) -> int:
        """Begin a sequence; how many rows it has. Those beyond `resume` are not the session's."""
        state, request, runner = self._state, self._state.request, self._state.parts.runner
        if state.has_sequence:
            state.is_engine_open = False
            await runner.close(state.sequence_id)
        state.has_sequence = True
        drawn = np.frombuffer(request.drawn if state.samples else b"", "<i4").tolist()
        rows = await runner.open(
            state.sequence_id,
            capacity_tokens=request.capacity_tokens,
            sampling=request.sampling if state.samples else None,
            span=request.span,
            prefix=scoped_prefix(state.head.peer_id, request.prefix),
            drawn=drawn,
            drawn_at=request.resume - len(drawn) + 1 if drawn else 0,
        )
        state.is_engine_open = True
        if request.epoch > 0:
            rows = min(rows, request.resume)
        state.start_log(rows)
        return rows

    async def _ready_engine(self, rows: int) -> None:
        """Forget what is beyond; queued steps of the epoch before are void with it."""
        state = self._state
        if state.request.epoch > 0:
            await state.parts.runner.truncate(state.sequence_id, rows)

    def _expect(self, rows: int) -> None:
        """Say whose links are taken, and how many rows the other end will find."""
        request, links = self._state.request, self._state.parts.links
        role = LinkRole.MIRROR if request.standby else LinkRole.STEPS
        roles = [(role, request.previous)]
        is_first = request.hop_index == 0 and request.hop_count > 1 and not request.standby
        if is_first and request.loop is not None:
            roles.append((LinkRole.LOOP, request.loop))
        for role, peer in roles:
            expected = links.expect(request, role, peer, rows=rows)
            self._incoming.append((role, self._expected.enter_context(expected)))

    def _start(self, onward: Onward, is_engine_ready: "asyncio.Task[None]") -> None:
        state, request = self._state, self._state.request
        self._working = self._tasks.spawn(self.work.run(onward, is_engine_ready))
        for role, expected in self._incoming:
            reading = self._mirrored if role is LinkRole.MIRROR else self._read
            self._tasks.spawn(reading(role, expected))
        for link in (onward.link, onward.loop):
            if link is not None:
                self._tasks.spawn(link.watch())
        if request.mirror is not None and onward.link is not None and state.log is not None:
            self._tasks.spawn(mirror_rows(state, state.log))

    async def _watch_tasks(self) -> None:
        while not self._tasks.is_idle:
            task = await self._tasks.next_ended()
            if task.cancelled() or (error := task.exception()) is None:
                continue
            if not isinstance(error, NeighbourGone):
                raise error
            await self._lose(error)

    async def _lose(self, error: NeighbourGone) -> None:
        """Stop working, but go on reading: what else is lost shall be known, and links drained."""
        if self._working is not None:
            self._working.cancel()
        if self._state.request.standby:
            logger.info("the standby for hop %d stays behind: %s", self._hop_index, error)
            return
        if error.public_key not in self._told:
            self._told.add(error.public_key)
            await self._tell_lost(error)

    async def _read(self, role: LinkRole, expected: ExpectedLink) -> None:
        """Take what comes on a link. Raises NeighbourGone, whatever is wrong with it."""
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                link = await expected.wait()
        except TimeoutError:
            raise gone(
                expected.peer, "it did not attach its link in time.", ErrorCode.TIMED_OUT
            ) from None
        while True:
            try:
                await self._take(role, link)
            except (RemoteProtocolError, SessionError) as error:
                if isinstance(error, NeighbourGone):
                    raise
                raise gone(link.peer_id, error.message, ErrorCode.MALFORMED) from error

    async def _take(self, role: LinkRole, link: Link) -> None:
        frame = await link.receive()
        if frame is None:
            return
        if not isinstance(frame, _CARRIED[role]):
            raise RemoteProtocolError(f"A link of {role.name} carried {type(frame).__name__}.")
        self.work.take(frame, link.peer_id)
        if role is LinkRole.MIRROR or isinstance(frame, Replay):
            await self.work.wait_room()

    async def _mirrored(self, role: LinkRole, expected: ExpectedLink) -> None:
        """Take what a standby is sent, as long as it is; without it the rows here stay."""
        link = await expected.wait()
        try:
            while True:
                await self._take(role, link)
        except (RemoteProtocolError, SessionError) as error:
            logger.info("the standby for hop %d gets no more: %s", self._hop_index, error)
