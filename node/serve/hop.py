"""One session at this hop, from its OPEN to its end: what the head says, and what becomes of it.

    head stream   ◄──► OPEN OPENED PROBE PROGRESS METER RECEIPT ACK EXTEND EXTENDED CLOSE ERROR

No rows come on it: CLOSE overtakes everything that is under way on the links, and PROBE; so does
OPEN of a next epoch, with which this hop lets go of its links and takes new ones. Links and
rows are the matter of `epoch.py` and `work.py`.
"""

import asyncio
import dataclasses

from node.serve.admission import extended
from node.serve.codes import attempt, error_frame
from node.serve.epoch import Epoch
from node.serve.head_stream import HeadStream
from node.serve.hop_state import HopState, LinkBytes, ServerParts
from node.serve.payment import take_receipt
from node.serve.prefix import scoped_prefix
from node.serve.tasks import Tasks
from protocol.errors import (
    ErrorCode,
    NeighbourGone,
    PieceworkError,
    RemoteProtocolError,
    SessionError,
)
from protocol.frame import (
    Close,
    ErrorFrame,
    Extend,
    Extended,
    Frame,
    Open,
    Probe,
    Progress,
    ReceiptFrame,
    decode_frame,
)
from protocol.hop_session import HopSession
from protocol.lease import Lease
from protocol.session import (
    CLOSE_TIMEOUT_S,
    IDLE_TIMEOUT_S,
    REPAIR_WAIT_S,
    REPAIRS_MAX,
    SessionState,
)
from transport.base import Stream

__all__ = ["HopDriver"]

REOPENS_MAX = 4 * REPAIRS_MAX
"""OPENs of later epochs that a session takes: each repair may need some tries, and with each this
hop works on credit anew."""

_OVER = (SessionState.CLOSING, SessionState.CLOSED, SessionState.FAILED)


class HopDriver:
    """Runs one session from its admission to its end. Made by the server."""

    def __init__(
        self,
        request: Open,
        parts: ServerParts,
        *,
        sequence_id: int,
        head: Stream,
        lease: Lease | None,
    ) -> None:
        self._parts = parts
        self._state = HopState(
            parts, HeadStream(head), sequence_id, self._session(request, lease), lease
        )
        self._tasks = Tasks()
        self._reader: asyncio.Task[None] | None = None
        self._waiting_for_repair: asyncio.Task[None] | None = None
        self._epoch = Epoch(self._state, self._lose)
        self._reopens = 0
        self._stopped: list[Epoch] = []
        """Former epochs some of whose tasks have yet to end."""
        self.engine_lost = asyncio.Event()
        """Set by the server when the engine came back without this session's KV."""

    @property
    def session(self) -> HopSession:
        return self._state.session

    @property
    def lease(self) -> Lease | None:
        return self._state.lease

    @property
    def bytes(self) -> LinkBytes:
        return self._state.carried_bytes

    @property
    def was_ready(self) -> bool:
        """Whether it ever was a session, and not a refusal."""
        return self._state.was_ready

    @property
    def path_kind(self) -> str:
        """How the way onward travels."""
        return self._state.path_kind

    async def run(self) -> None:
        """Serve until CLOSE and the last receipt, or until something breaks that no repair mends.

        A failure is told to the head as one ERROR frame, then raised as PieceworkError.
        """
        self._reader = self._tasks.spawn(self._read_head())
        self._tasks.spawn(self._watch_engine())
        self._epoch.start(self._tasks)
        try:
            # the head's reader ends with the session; any other end is a failure
            while not self._reader.done():
                self._check(await self._tasks.next_ended())
            self._check(self._reader)
        except PieceworkError as error:
            await self._fail(error)
            raise
        finally:
            self._epoch.stop()
            self._tasks.cancel()
            for epoch in (*self._stopped, self._epoch):
                await epoch.join()
            await self._tasks.join()
            self._epoch.end_links(is_void=False)
            self._state.end_log()
            await self._state.head.close()

    def _session(self, request: Open, lease: Lease | None) -> HopSession:
        return HopSession(
            request,
            hidden_size=self._parts.runner.info.hidden_size,
            window_tokens=lease.window_tokens if lease else None,
            credit_tokens=lease.credit_tokens if lease else None,
            work_max=lease.work_max if lease else None,
        )

    def _check(self, task: "asyncio.Task[None]") -> None:
        """Raise what ended a task, unless CLOSE came first: then work breaks off as it should."""
        matters = task is self._reader or self.session.state not in _OVER
        if not task.cancelled() and (error := task.exception()) and matters:
            raise error

    async def _read_head(self) -> None:
        """Frames of the head, until the session is over. Silence frees the session too."""
        while self.session.state not in (SessionState.CLOSED, SessionState.FAILED):
            closing = self.session.state is SessionState.CLOSING
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S if closing else IDLE_TIMEOUT_S):
                    data = await self._state.head.receive()
            except TimeoutError:
                if closing:
                    return  # the head does not sign the rest: what is signed stands
                raise SessionError("The head is silent.", code=ErrorCode.TIMED_OUT) from None
            if data is None:
                if closing:
                    return
                raise SessionError("The head has left.", code=ErrorCode.PEER_GONE)
            frame = decode_frame(data)
            if frame is not None:
                await self._take_head_frame(frame)

    async def _take_head_frame(self, frame: Frame) -> None:
        """Nothing here waits for the engine but CLOSE: what comes next must be seen at once."""
        match frame:
            case Open():
                self._reopen(frame)
            case Probe():
                await self._answer(frame)
            case ReceiptFrame():
                await take_receipt(self._state, frame)
            case Extend():
                await self._extend(frame)
            case Close():
                await self._take_close(frame)
            case ErrorFrame():
                raise SessionError(f"The head gave up: {frame.message}", code=frame.code)
            case _:
                raise RemoteProtocolError(f"The head does not send {type(frame).__name__} here.")

    async def _extend(self, frame: Extend) -> None:
        """The same lease with higher limits: work up to them from now on."""
        state = self._state
        if frame.session_id != state.request.session_id:
            raise RemoteProtocolError("The frame belongs to another session.")
        if state.lease is None:
            raise RemoteProtocolError("EXTEND came on a session without a lease.")
        lease = extended(frame.lease, state.request.lease, state.lease)
        state.session.accept_extend(lease.work_max)
        state.lease = lease
        await state.head.send(Extended(frame.session_id, lease.amount_nanos_max))

    def _reopen(self, request: Open) -> None:
        """Go to the next epoch: other neighbours, and the rows that the session has for certain."""
        state, former = self._state, self._epoch
        if state.session.state in _OVER:
            raise RemoteProtocolError("OPEN came after CLOSE.")
        self._reopens += 1
        if self._reopens > REOPENS_MAX:
            raise RemoteProtocolError(f"A session is not opened more than {REOPENS_MAX} times.")
        lease = self._parts.admission.readmit(request, state.head.peer_id, state.lease)
        former.stop()
        self._stop_waiting_for_repair()
        must_open = not state.is_engine_open
        if self._is_promoted_sampler(request):
            must_open, request = True, dataclasses.replace(request, forget=True)
        self._change_lease(lease)
        rows = state.session.reopen(request)
        if state.log is not None:
            state.log.truncate(rows)
        state.rows_out = min(state.rows_out, rows)
        former.end_links(is_void=True)
        self._stopped = [epoch for epoch in (*self._stopped, former) if not epoch.is_over]
        self._epoch = Epoch(state, self._lose, rows=None if must_open else rows)
        self._epoch.start(self._tasks)

    def _is_promoted_sampler(self, request: Open) -> bool:
        """Whether a standby takes the place of the hop that draws: its sequence does not know the
        tokens that penalties count, and an engine is told of them only when it begins one."""
        return self._state.request.standby and self._state.samples and bool(request.drawn)

    def _change_lease(self, lease: Lease | None) -> None:
        """Count from nothing under another lease; the rows are the same."""
        state, held = self._state, self._state.lease
        state.lease = lease
        if lease is None or held is None or lease.lease_id == held.lease_id:
            return
        if self._parts.collector is not None:
            self._parts.collector.session_over(held.lease_id)
        rows = state.session.rows
        state.session = self._session(state.request, lease)
        state.session.ready(cached_tokens=rows)

    async def _lose(self, error: NeighbourGone) -> None:
        """A neighbour is gone: tell the head who, keep the rows, and wait for the repair."""
        if self.session.state in _OVER:
            return
        self.session.lose_neighbour()
        if self._waiting_for_repair is None:
            self._waiting_for_repair = self._tasks.spawn(self._wait_for_repair(error))
        frame = error_frame(self._state.request, error)
        await attempt(lambda: self._state.head.send(frame))

    async def _wait_for_repair(self, lost: NeighbourGone) -> None:
        await asyncio.sleep(REPAIR_WAIT_S)
        raise lost

    def _stop_waiting_for_repair(self) -> None:
        if self._waiting_for_repair is not None:
            self._waiting_for_repair.cancel()
            self._waiting_for_repair = None

    async def _watch_engine(self) -> None:
        await self.engine_lost.wait()
        raise SessionError("The engine died and lost its KV.", code=ErrorCode.ENGINE_FAILED)

    async def _answer(self, probe: Probe) -> None:
        state = self._state
        if probe.session_id != state.request.session_id:
            raise RemoteProtocolError("The frame belongs to another session.")
        progress = Progress(
            probe.session_id, state.request.epoch, probe.nonce,
            rows_in=state.session.position, rows_out=state.rows_out,
        )  # fmt: skip
        await state.head.send(progress)

    async def _take_close(self, frame: Close) -> None:
        state = self._state
        meter = state.session.accept_close(frame)
        self._epoch.stop()
        self._stop_waiting_for_repair()
        keep = scoped_prefix(state.head.peer_id, frame.keep)
        await self._parts.runner.close(state.sequence_id, keep=keep)
        if meter is not None:
            await state.head.send(meter)
        elif state.session.state is SessionState.CLOSING:
            state.session.settled()

    async def _fail(self, error: PieceworkError) -> None:
        self.session.fail()
        frame = error_frame(self._state.request, error)
        await attempt(lambda: self._state.head.send(frame))
