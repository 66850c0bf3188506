"""One session at this hop, as I/O: its streams, its tasks, its KV.

    head stream   ◄──► OPEN OPENED METER RECEIPT ACK CLOSE ERROR; at hop 0 also STEP and TRUNCATE
    link in        ──► STEP TRUNCATE            (hop k > 0: the stream the upstream hop attached)
    link out       ──► STEP TRUNCATE            (hop k dials hop k+1; the last hop: RESULT to head)

Steps run one after another through a bounded queue, so a slow hop slows its sender; CLOSE comes on
the head's own stream and so overtakes everything that is under way on the links.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from node.engine.runner import EngineRunner
from node.serve.codes import attempt, error_frame
from node.serve.collector import Collector
from node.serve.items import step_item
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
    STEPS_IN_FLIGHT_MAX,
    UNPAID_TIMEOUT_S,
    SessionState,
)
from protocol.tensor import payload_hash
from transport.base import Stream
from transport.errors import TransportError

__all__ = ["HopDriver", "LinkBytes"]

HEAD_READER = "head reader"

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class LinkBytes:
    """Activation payload bytes counted at the streams themselves, apart from any receipt."""

    received: int = 0
    sent: int = 0


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
        self.bytes = LinkBytes()
        self._runner = runner
        self._sequence_id = sequence_id
        self._head = head
        self._link_in = link_in
        self._link_out = link_out
        self._lease = lease
        self._collector = collector
        self._queue: asyncio.Queue[Step | Truncate] = asyncio.Queue(STEPS_IN_FLIGHT_MAX + 1)
        self._paid = asyncio.Event()
        self.engine_lost = asyncio.Event()
        """Set by the server when the engine came back without this session's KV."""
        self._send_lock = asyncio.Lock()

    async def run(self) -> None:
        """Serve until CLOSE and the last receipt, or until something breaks.

        A failure is told to the head as one ERROR frame, then raised as PieceworkError.
        """
        work = asyncio.create_task(self._work())
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
                self._enqueue(frame)
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
                        self._enqueue(frame)
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

    def _enqueue(self, frame: Step | Truncate) -> None:
        if isinstance(frame, Step):
            self.bytes.received += len(frame.payload)
            if not self.session.accept_step(frame):
                return
        elif not self.session.accept_truncate(frame):
            return
        try:
            self._queue.put_nowait(frame)
        except asyncio.QueueFull:
            raise RemoteProtocolError(
                f"More than {STEPS_IN_FLIGHT_MAX} steps were sent ahead."
            ) from None

    async def _work(self) -> None:
        while True:
            frame = await self._queue.get()
            if isinstance(frame, Truncate):
                await self._runner.truncate(self._sequence_id, frame.position)
                await self._send_on(frame)
                continue
            await self._wait_paid()
            await self._run_step(frame)

    async def _wait_paid(self) -> None:
        """Hold the step back while a receipt is owed for more than the credit."""
        try:
            async with asyncio.timeout(UNPAID_TIMEOUT_S):
                while not self.session.may_work():
                    self._paid.clear()
                    await self._paid.wait()
        except TimeoutError:
            raise SessionError(
                "No receipt came for work beyond the credit.", code=ErrorCode.UNPAID
            ) from None

    async def _run_step(self, step: Step) -> None:
        opened = self.session.open
        samples = opened.is_last and not opened.sealed
        result = await self._runner.submit(
            step_item(step, self._sequence_id, opened, samples=samples),
            lease_key=self._lease.lease_id if self._lease else opened.session_id,
        )
        rows = result.tokens if samples else result.hidden
        assert rows is not None
        payload = rows.astype("<i4").tobytes() if samples else rows.tobytes()
        digest = payload_hash(payload)
        await self._forward(step, payload, digest, samples=samples)
        self.bytes.sent += len(payload)
        meter = self.session.complete_step(step, bytes_out=len(payload), digest_out=digest)
        if meter is not None:
            await self._send_head(meter)

    async def _forward(self, step: Step, payload: bytes, digest: bytes, *, samples: bool) -> None:
        opened = self.session.open
        kind = Result if opened.is_last else Step
        frame = kind(
            step.session_id,
            step.epoch,
            step.kind,
            step.position,
            step.count,
            step.wanted,
            None if samples else opened.wire_dtype,
            0 if samples else self._runner.info.hidden_size,
            payload,
            digest,
        )
        if opened.is_last:
            await self._send_head(frame)
        else:
            await self._send_on(frame)

    async def _send_on(self, frame: Step | Result | Truncate) -> None:
        """To the next hop; the last hop has none."""
        if self._link_out is not self._head:
            with self._losing(self._link_out):
                await self._link_out.send(*encode_frame(frame))

    async def _take_receipt(self, frame: ReceiptFrame) -> None:
        if self._lease is None or self._collector is None:
            raise RemoteProtocolError("A receipt came on a session without a lease.")
        receipt, countersignature = await self._collector.collect(frame.receipt, self._lease)
        self._check_receipt(receipt.steps, receipt.tokens)
        self.session.accept_receipt(receipt.tokens)
        self._paid.set()
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
        await self._runner.close(self._sequence_id)
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
