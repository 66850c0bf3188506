"""One session at this hop, as I/O: its streams, its tasks, its KV.

    head stream   ◄──► OPEN OPENED METER RECEIPT ACK CLOSE ERROR; at hop 0 also STEP and TRUNCATE
    link in        ──► STEP TRUNCATE            (hop k > 0: the stream the upstream hop attached)
    link out       ──► STEP TRUNCATE            (hop k dials hop k+1; the last hop: RESULT to head)

CLOSE comes on the head's own stream and so overtakes everything that is under way on the links.
What a step does here is in `work.py`.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator

from node.engine.runner import EngineRunner
from node.serve.codes import attempt, error_frame
from node.serve.collector import Collector
from node.serve.prefix import scoped_prefix
from node.serve.work import LinkBytes, StepWork
from protocol.errors import (
    ErrorCode,
    NeighbourGone,
    PieceworkError,
    RemoteProtocolError,
    SessionError,
)
from protocol.frame import (
    Ack,
    Close,
    ErrorFrame,
    Frame,
    Meter,
    Opened,
    ReceiptFrame,
    Result,
    Step,
    Truncate,
    decode_frame,
    encode_frame,
)
from protocol.hop_session import HopSession
from protocol.lease import Lease
from protocol.session import (
    CLOSE_TIMEOUT_S,
    IDLE_TIMEOUT_S,
    SessionState,
)
from transport.base import Stream
from transport.errors import TransportError

__all__ = ["HopDriver"]

HEAD_READER = "head reader"

logger = logging.getLogger(__name__)


class HopDriver:
    """Runs one session from OPENED to its end. Made by the server once the OPEN is admitted."""

    def __init__(
        self,
        session: HopSession,
        runner: EngineRunner,
        *,
        sequence_id: int,
        head: Stream,
        link_in: Stream,
        link_out: Stream,
        lease: Lease | None,
        collector: Collector | None,
    ) -> None:
        self.session = session
        self._runner = runner
        self._sequence_id = sequence_id
        self._head = head
        self._link_in = link_in
        self._link_out = link_out
        self._lease = lease
        self._collector = collector
        self._work = StepWork(
            session,
            runner,
            sequence_id=sequence_id,
            lease_key=lease.lease_id if lease else session.open.session_id,
            send_on=self._send_on,
            send_meter=self._send_head,
        )
        self.engine_lost = asyncio.Event()
        """Set by the server when the engine came back without this session's KV."""
        self._send_lock = asyncio.Lock()

    @property
    def bytes(self) -> LinkBytes:
        return self._work.bytes

    async def run(self) -> None:
        """Serve until CLOSE and the last receipt, or until something breaks.

        A failure is told to the head as one ERROR frame, then raised as PieceworkError.
        """
        work = asyncio.create_task(self._work.run())
        readers = [asyncio.create_task(self._read_head(), name=HEAD_READER)]
        if self._link_in is not self._head:
            readers.append(asyncio.create_task(self._read_link()))
        if self._link_out is not self._head:
            readers.append(asyncio.create_task(self._watch_link_out()))
        readers.append(asyncio.create_task(self._watch_engine()))
        tasks = [work, *readers]
        try:
            # the head's reader ends with the session; any other end is a failure
            while not readers[0].done():
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    tasks.remove(task)
                    self._check(task)
                if self.session.state is SessionState.CLOSING:
                    work.cancel()
        except PieceworkError as error:
            await self._fail(error)
            raise
        finally:
            for task in (work, *readers):
                task.cancel()
            await asyncio.gather(work, *readers, return_exceptions=True)

    def _check(self, task: "asyncio.Task[None]") -> None:
        """Raise what ended a task, unless CLOSE came first: then work breaks off as it should."""
        matters = self.session.state is SessionState.READY or task.get_name() == HEAD_READER
        if not task.cancelled() and (error := task.exception()) and matters:
            raise error

    async def _read_head(self) -> None:
        """Frames of the head, until the session is over. Silence frees the session too."""
        while self.session.state not in (SessionState.CLOSED, SessionState.FAILED):
            closing = self.session.state is SessionState.CLOSING
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S if closing else IDLE_TIMEOUT_S):
                    data = await self._head.receive()
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
        match frame:
            case Step() | Truncate() if self._link_in is self._head:
                self._work.enqueue(frame)
            case ReceiptFrame():
                await self._take_receipt(frame)
            case Close():
                await self._take_close(frame)
            case ErrorFrame():
                raise SessionError(f"The head gave up: {frame.message}", code=frame.code)
            case _:
                raise RemoteProtocolError(f"The head does not send {type(frame).__name__} here.")

    async def _read_link(self) -> None:
        with self._losing(self._link_in):
            while (data := await self._link_in.receive()) is not None:
                match decode_frame(data):
                    case (Step() | Truncate()) as frame:
                        self._work.enqueue(frame)
                    case None:
                        continue
                    case other:
                        raise RemoteProtocolError(f"A link does not carry {type(other).__name__}.")
        await self._link_ended(self._link_in)

    async def _watch_link_out(self) -> None:
        """Nothing comes back on a link but its end."""
        with self._losing(self._link_out):
            while await self._link_out.receive() is not None:
                continue
        await self._link_ended(self._link_out)

    async def _link_ended(self, link: Stream) -> None:
        """A neighbour may have seen the head's CLOSE a moment before us; then all is well."""
        if self.session.state is SessionState.READY:
            await asyncio.sleep(CLOSE_TIMEOUT_S)
            raise NeighbourGone("A neighbouring hop ended its link.", link.peer_id.public_key)

    @contextlib.contextmanager
    def _losing(self, link: Stream) -> Iterator[None]:
        """What breaks on a link is its other end's doing, and the head must know whose."""
        try:
            yield
        except TransportError as error:
            raise NeighbourGone(
                f"A neighbouring hop is gone: {error.message}", link.peer_id.public_key
            ) from error

    async def _watch_engine(self) -> None:
        await self.engine_lost.wait()
        raise SessionError("The engine died and lost its KV.", code=ErrorCode.ENGINE_FAILED)

    async def _send_on(self, frame: Step | Result | Truncate) -> None:
        """Onward: to the next hop, or from the last hop to the head, which needs no TRUNCATE."""
        if self._link_out is self._head:
            if not isinstance(frame, Truncate):
                await self._send_head(frame)
            return
        with self._losing(self._link_out):
            await self._link_out.send(*encode_frame(frame))

    async def _take_receipt(self, frame: ReceiptFrame) -> None:
        if self._lease is None or self._collector is None:
            raise RemoteProtocolError("A receipt came on a session without a lease.")
        receipt, countersignature = await self._collector.collect(frame.receipt, self._lease)
        self._check_receipt(receipt.steps, receipt.tokens)
        self.session.accept_receipt(receipt.tokens)
        self._work.paid.set()
        await self._send_head(Ack(frame.session_id, receipt.sequence, countersignature))
        if receipt.final:
            self.session.settled()

    def _check_receipt(self, steps: int, tokens: int) -> None:
        """More than was carried is never signed for us; less is the payer's right."""
        carried = self.session.carried
        if steps > carried.steps or tokens > carried.tokens:
            raise RemoteProtocolError("The receipt covers work that was not done.")

    async def _take_close(self, frame: Close) -> None:
        meter = self.session.accept_close(frame)
        keep = scoped_prefix(self._head.peer_id, frame.keep)
        await self._runner.close(self._sequence_id, keep=keep)
        if meter is not None:
            await self._send_head(meter)
        elif self.session.state is SessionState.CLOSING:
            self.session.settled()

    async def _send_head(self, frame: Opened | Meter | Ack | Result | Step | ErrorFrame) -> None:
        async with self._send_lock:
            await self._head.send(*encode_frame(frame))

    async def _fail(self, error: PieceworkError) -> None:
        self.session.fail()
        frame = error_frame(self.session.open.session_id, error)
        await attempt(lambda: self._send_head(frame))
