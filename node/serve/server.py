"""The server of one shard: takes OPEN and ATTACH streams and puts sessions together from them."""

import asyncio
import itertools
import logging
from collections import deque
from dataclasses import dataclass

from node.engine.runner import EngineRunner
from node.serve.admission import Admission
from node.serve.codes import attempt, error_frame
from node.serve.collector import Collector
from node.serve.hop import HopDriver
from node.serve.links import LinkBoard
from node.serve.prefix import scoped_prefix
from protocol.errors import (
    ErrorCode,
    NeighbourGone,
    PieceworkError,
    RemoteProtocolError,
    SessionError,
)
from protocol.frame import PROTOCOL, Attach, Open, Opened, decode_frame, encode_frame
from protocol.hop_session import HopSession
from protocol.lease import Lease
from protocol.session import OPEN_TIMEOUT_S
from transport.address import known_addresses
from transport.base import Host, Stream
from transport.errors import TransportError

__all__ = ["SessionReport", "SessionServer"]

SESSIONS_MAX = 256
"""Sessions at once; KV runs out long before on any home machine."""
REPORTS_MAX = 64
"""Finished sessions remembered for the status page."""
FIRST_FRAME_TIMEOUT_S = 10.0
"""A stream that says nothing is closed: it costs a task."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SessionReport:
    """What one session carried, counted at the streams. `outcome`: done, cancelled, or why not."""

    session_id: str
    head: str
    hop_index: int
    span: str
    tokens: int
    bytes_received: int
    bytes_sent: int
    amount_nanos: int
    path_kind: str
    outcome: str


class SessionServer:
    """Serves sessions on one host with one engine. Constructed by the composition root."""

    def __init__(
        self,
        host: Host,
        runner: EngineRunner,
        admission: Admission,
        *,
        collector: Collector | None,
        backend: str,
    ) -> None:
        self._host = host
        self._runner = runner
        self._admission = admission
        self._collector = collector
        self._backend = backend
        self._links = LinkBoard()
        self._sequence_ids = itertools.count(1)
        self._drivers: dict[bytes, HopDriver] = {}
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.reports: deque[SessionReport] = deque(maxlen=REPORTS_MAX)

    def start(self) -> None:
        """Begin to take sessions; call once the engine is loaded."""
        self._runner.on_restart = self._engine_restarted
        self._host.set_handler(PROTOCOL, self._handle)

    async def _engine_restarted(self) -> None:
        """Sessions under way cannot go on: what they had in the engine is gone."""
        for driver in self._drivers.values():
            driver.engine_lost.set()

    @property
    def sessions(self) -> int:
        return len(self._drivers)

    async def drain(self, *, timeout_s: float) -> None:
        """Refuse new sessions and wait for those under way, for at most `timeout_s`."""
        self._draining = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            logger.warning("%d sessions did not end in time", len(self._drivers))
        self._host.set_handler(PROTOCOL, None)

    async def _handle(self, stream: Stream) -> None:
        try:
            async with asyncio.timeout(FIRST_FRAME_TIMEOUT_S):
                data = await stream.receive()
            frame = decode_frame(data) if data else None
            match frame:
                case Open():
                    await self._serve(frame, stream)
                case Attach():
                    await self._links.attach(frame, stream)
                case _:
                    raise RemoteProtocolError("A stream begins with OPEN or ATTACH.")
        except (PieceworkError, TimeoutError) as error:
            logger.info("stream of %s ended: %s", stream.peer_id.short, error)
            stream.reset(ErrorCode.MALFORMED)

    async def _serve(self, request: Open, head: Stream) -> None:
        """One session from its OPEN to its end; a refusal is one ERROR frame."""
        sequence_id = next(self._sequence_ids)
        link_out: Stream | None = None
        driver: HopDriver | None = None
        lease: Lease | None = None
        outcome = "done"
        try:
            lease = self._admit(request, head)
            session = HopSession(
                request,
                hidden_size=self._runner.info.hidden_size,
                window_tokens=lease.window_tokens if lease else None,
                credit_tokens=lease.credit_tokens if lease else None,
            )
            cached_tokens = await self._runner.open(
                sequence_id,
                capacity_tokens=request.capacity_tokens,
                sampling=request.sampling if request.is_last and not request.sealed else None,
                span=request.span,
                prefix=scoped_prefix(head.peer_id, request.prefix),
            )
            with self._links.expect(request) as link:
                async with asyncio.timeout(OPEN_TIMEOUT_S):
                    link_out = await self._open_link_out(request, head)
                    opened = Opened(
                        request.session_id, request.epoch, request.hop_index,
                        self._backend, link_out.path_kind, cached_tokens,
                    )  # fmt: skip
                    await head.send(*encode_frame(opened))
                    link_in = head if request.hop_index == 0 else await link.wait(request.previous)
                session.ready(cached_tokens=cached_tokens)
                driver = HopDriver(
                    session, self._runner, sequence_id=sequence_id, head=head, link_in=link_in,
                    link_out=link_out, lease=lease, collector=self._collector,
                )  # fmt: skip
                self._register(request.session_id, driver)
                await driver.run()
        except TimeoutError:
            late = SessionError("The links did not stand in time.", code=ErrorCode.TIMED_OUT)
            outcome = late.message
            await attempt(lambda: _refuse(head, request, late))
        except PieceworkError as error:
            outcome = error.message
            if driver is None:
                refused = error
                await attempt(lambda: _refuse(head, request, refused))
        except asyncio.CancelledError:
            outcome = "this node stopped"
            raise
        finally:
            await self._end(request, driver, lease, outcome, head, link_out, sequence_id)

    def _admit(self, request: Open, head: Stream) -> Lease | None:
        if self._draining:
            raise SessionError("This node is leaving.", code=ErrorCode.SHUTTING_DOWN)
        if len(self._drivers) >= SESSIONS_MAX:
            raise SessionError("Too many sessions here.", code=ErrorCode.NO_CAPACITY)
        if request.session_id in self._drivers:
            raise SessionError("The session is open already.", code=ErrorCode.NOT_ADMITTED)
        return self._admission.admit(request, head.peer_id)

    async def _open_link_out(self, request: Open, head: Stream) -> Stream:
        """The stream onward: the head's own at the last hop, else one to the next hop."""
        if request.is_last:
            return head
        addresses = known_addresses(request.next_addresses)
        attach = Attach(request.session_id, request.epoch, request.hop_index + 1)
        try:
            connection = await self._host.connect(request.next, addresses, timeout_s=OPEN_TIMEOUT_S)
            stream = await connection.open_stream(PROTOCOL)
            await stream.send(*encode_frame(attach))
            data = await stream.receive()
        except TransportError as error:
            raise NeighbourGone(error.message, request.next.public_key) from error
        answer = decode_frame(data) if data else None
        if not isinstance(answer, Opened) or answer.session_id != request.session_id:
            stream.reset(ErrorCode.MALFORMED)
            raise NeighbourGone("The next hop did not take the link.", request.next.public_key)
        return stream

    def _register(self, session_id: bytes, driver: HopDriver) -> None:
        self._drivers[session_id] = driver
        self._idle.clear()

    async def _end(
        self,
        request: Open,
        driver: HopDriver | None,
        lease: Lease | None,
        outcome: str,
        head: Stream,
        link_out: Stream | None,
        sequence_id: int,
    ) -> None:
        """Free everything a session held, in any case."""
        if driver is not None:
            del self._drivers[request.session_id]
            self.reports.append(_report(request, driver, lease, outcome, head, link_out))
        if not self._drivers:
            self._idle.set()
        if lease is not None and self._collector is not None:
            self._collector.session_over(lease.lease_id)
        for stream in (link_out, head):
            if stream is not None:
                try:
                    stream.finish()
                except TransportError:
                    logger.debug("the stream was gone already")
        await self._runner.close(sequence_id)


async def _refuse(head: Stream, request: Open, error: PieceworkError) -> None:
    await head.send(*encode_frame(error_frame(request.session_id, error)))


def _report(
    request: Open,
    driver: HopDriver,
    lease: Lease | None,
    outcome: str,
    head: Stream,
    link_out: Stream | None,
) -> SessionReport:
    carried = driver.session.carried
    return SessionReport(
        session_id=request.session_id.hex(),
        head=str(head.peer_id),
        hop_index=request.hop_index,
        span=str(request.span),
        tokens=carried.tokens,
        bytes_received=driver.bytes.received,
        bytes_sent=driver.bytes.sent,
        amount_nanos=lease.amount_for(carried.work) if lease else 0,
        path_kind=link_out.path_kind if link_out else "",
        outcome=outcome,
    )
