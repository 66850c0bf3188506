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
from node.serve.hop_state import ServerParts
from node.serve.links import LinkBoard
from node.serve.replay_log import ReplayBudget
from protocol.errors import ErrorCode, PieceworkError, RemoteProtocolError, SessionError
from protocol.frame import PROTOCOL, Attach, Open, decode_frame, encode_frame
from protocol.lease import Lease
from transport.base import Host, Stream
from transport.errors import TransportError

__all__ = ["SessionReport", "SessionServer"]

SESSIONS_MAX = 256
"""Sessions at once; KV runs out long before on any home machine."""
REPORTS_MAX = 64
"""Finished sessions remembered for the status page."""
FIRST_FRAME_TIMEOUT_S = 10.0
"""A stream that says nothing is closed: it costs a task."""

_Key = tuple[bytes, int, int]
"""Session, hop, and the epoch in which it was first opened here: while a session of an old route
is closing, a new route of the same session may come to this node again."""

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
        replay_budget: ReplayBudget | None = None,
    ) -> None:
        """`replay_budget`: what all sessions here may keep of what they sent on, for repairs."""
        self._parts = ServerParts(
            host,
            runner,
            admission,
            collector,
            backend,
            LinkBoard(),
            replay_budget or ReplayBudget(),
        )
        self._sequence_ids = itertools.count(1)
        self._drivers: dict[_Key, HopDriver] = {}
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.reports: deque[SessionReport] = deque(maxlen=REPORTS_MAX)

    def start(self) -> None:
        """Begin to take sessions; call once the engine is loaded."""
        self._parts.runner.on_restart = self._engine_restarted
        self._parts.host.set_handler(PROTOCOL, self._handle)

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
        self._parts.host.set_handler(PROTOCOL, None)

    async def _handle(self, stream: Stream) -> None:
        try:
            async with asyncio.timeout(FIRST_FRAME_TIMEOUT_S):
                data = await stream.receive()
            frame = decode_frame(data) if data else None
            match frame:
                case Open():
                    await self._serve(frame, stream)
                case Attach():
                    await self._parts.links.attach(frame, stream)
                case _:
                    raise RemoteProtocolError("A stream begins with OPEN or ATTACH.")
        except (PieceworkError, TimeoutError) as error:
            logger.info("stream of %s ended: %s", stream.peer_id.short, error)
            stream.reset(ErrorCode.MALFORMED)

    async def _serve(self, request: Open, head: Stream) -> None:
        """One session from its OPEN to its end; a refusal is one ERROR frame."""
        key = (request.session_id, request.hop_index, request.epoch)
        try:
            lease = self._admit(key, request, head)
        except PieceworkError as error:
            refused = error
            await attempt(lambda: _refuse(head, request, refused))
            head.finish()
            return
        sequence_id, outcome = next(self._sequence_ids), "done"
        driver = HopDriver(request, self._parts, sequence_id=sequence_id, head=head, lease=lease)
        self._drivers[key] = driver
        self._idle.clear()
        try:
            await driver.run()
        except PieceworkError as error:
            outcome = error.message
        except asyncio.CancelledError:
            outcome = "this node stopped"
            raise
        finally:
            del self._drivers[key]
            if not self._drivers:
                self._idle.set()
            if driver.was_ready:
                self.reports.append(_report(request, driver, outcome, head))
            await self._free(driver, sequence_id, head)

    def _admit(self, key: _Key, request: Open, head: Stream) -> Lease | None:
        if self._draining:
            raise SessionError("This node is leaving.", code=ErrorCode.SHUTTING_DOWN)
        if len(self._drivers) >= SESSIONS_MAX:
            raise SessionError("Too many sessions here.", code=ErrorCode.NO_CAPACITY)
        if key in self._drivers:
            raise SessionError("The session is open already.", code=ErrorCode.NOT_ADMITTED)
        return self._parts.admission.admit(request, head.peer_id)

    async def _free(self, driver: HopDriver, sequence_id: int, head: Stream) -> None:
        """Whatever a session held, in any case."""
        if driver.lease is not None and self._parts.collector is not None:
            self._parts.collector.session_over(driver.lease.lease_id)
        try:
            head.finish()
        except TransportError:
            logger.debug("the stream was gone already")
        await self._parts.runner.close(sequence_id)


async def _refuse(head: Stream, request: Open, error: PieceworkError) -> None:
    await head.send(*encode_frame(error_frame(request, error)))


def _report(request: Open, driver: HopDriver, outcome: str, head: Stream) -> SessionReport:
    carried = driver.session.carried
    return SessionReport(
        session_id=request.session_id.hex(),
        head=str(head.peer_id),
        hop_index=request.hop_index,
        span=str(request.span),
        tokens=carried.tokens,
        bytes_received=driver.bytes.received,
        bytes_sent=driver.bytes.sent,
        amount_nanos=driver.lease.amount_for(carried.work) if driver.lease else 0,
        path_kind=driver.path_kind,
        outcome=outcome,
    )
