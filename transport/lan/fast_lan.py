"""`FastLan`: streams over TCP + TLS 1.3 between machines of one LAN, where that is faster.

    fast_lan = await FastLan.start(host, "0.0.0.0")
    stream = await fast_lan.open(connection, protocol) or await connection.open_stream(protocol)

Who the peer is, its QUIC connection has proved; TCP borrows that (lan_wire.py tells how). The
QUIC connection also watches over the peer's life: when it ends, its LAN streams end with PeerGone.
"""

import asyncio
import logging
from collections.abc import Coroutine
from time import monotonic
from typing import Any, Protocol

from protocol.errors import PieceworkError, RemoteProtocolError
from protocol.identity import PeerId
from transport.base import Connection, PathKind, Stream, StreamHandler
from transport.errors import PeerGone, TransportError
from transport.interfaces import is_loopback, local_addresses, local_hosts
from transport.lan.carrier import SCRATCH_BYTES, LanCarrier
from transport.lan.link import LanBlocked, LanLink, host_of
from transport.lan.listener import LanCounts, LanListener, bind_listener
from transport.lan.session import LanSession
from transport.lan.settings import LanSettings
from transport.lan.stream import LanStream
from transport.lan.tickets import TicketBook
from transport.lan.tls import make_client_context, make_server_context
from transport.lan.verdict import (
    ECHO_PROTOCOL,
    LanCarrierKind,
    LanVerdict,
    choose,
    echo_round_trip_s,
    serve_echo,
)
from transport.lan.wire import LAN_PROTOCOL, LanHost, Offer, Want, accepted

__all__ = ["FastLan", "StreamHost"]

log = logging.getLogger(__name__)


class StreamHost(Protocol):
    """What FastLan needs of the host beside which it runs; QuicHost has it."""

    def set_handler(self, protocol: str, handler: StreamHandler | None) -> None: ...
    def on_stream(self, stream: LanStream, protocol: str) -> None:
        """Serve an incoming stream with the protocol's handler; without one, reset it."""


class FastLan:
    """Owned by the composition root. Make one with `start`; close it before the host."""

    def __init__(
        self, host: StreamHost, listen_host: str, port: int, settings: LanSettings
    ) -> None:
        self.settings = settings
        self._host = host
        self._listen_host = listen_host
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        context, self._certificate_hash = make_server_context()
        self._client_context = make_client_context()
        self._tickets = TicketBook[LanSession](
            settings.tickets_per_peer_max, settings.ticket_lifetime_s
        )
        self._listener = LanListener(
            bind_listener(listen_host, port),
            context,
            self._tickets,
            settings,
            self._scratch,
            self._serve,
        )
        self._sessions: dict[LanSession, Stream] = {}
        """What peers have opened to us, and the control stream that each leans on."""
        self._links: dict[Connection, LanLink] = {}
        self._preparing: dict[Connection, asyncio.Task[LanLink | None]] = {}
        self._verdicts: dict[PeerId, LanVerdict] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closed = False
        host.set_handler(LAN_PROTOCOL, self._serve_control)
        host.set_handler(ECHO_PROTOCOL, serve_echo)

    @classmethod
    async def start(
        cls,
        host: StreamHost,
        listen_host: str = "0.0.0.0",
        *,
        port: int = 0,
        settings: LanSettings | None = None,
    ) -> "FastLan":
        """Listen, and offer the fast path to every peer of `host`. Raises OSError."""
        return cls(host, listen_host, port, settings or LanSettings())

    @property
    def port(self) -> int:
        return self._listener.port

    @property
    def counts(self) -> LanCounts:
        return self._listener.counts

    def verdicts(self) -> tuple[LanVerdict, ...]:
        """What was measured and decided, per peer, for `doctor`."""
        return tuple(self._verdicts.values())

    async def open(self, connection: Connection, protocol: str) -> Stream | None:
        """A stream over TCP, or None where QUIC is the way: not a LAN, blocked, or slower.

        The first call for a peer measures both, about ten echoes; what came of it is remembered
        while the path stays, and a refusal is tried again in the background.
        """
        if self._is_closed or connection.path_kind is not PathKind.LAN:
            return None
        path = host_of(connection.remote)
        verdict = self._verdict(connection.peer_id, path)
        if verdict is not None and verdict.carrier is LanCarrierKind.QUIC:
            if monotonic() >= verdict.decided_at + self.settings.retry_after_s:
                self._prepare(connection, path, is_retry=True)
            return None
        link = self._links.get(connection) if verdict is not None else None
        if link is None:
            link = await asyncio.shield(self._prepare(connection, path))
        if link is None:
            return None
        try:
            return await link.open(protocol)
        except LanBlocked as error:
            self._decide(connection.peer_id, path, LanCarrierKind.QUIC, str(error))
        except TransportError as error:
            log.info("no LAN stream to %s this time: %s", connection.peer_id.short, error)
        return None

    async def close(self) -> None:
        """End every LAN stream and stop listening."""
        if self._is_closed:
            return
        self._is_closed = True
        self._host.set_handler(LAN_PROTOCOL, None)
        self._host.set_handler(ECHO_PROTOCOL, None)
        await self._listener.close()
        for session, control in list(self._sessions.items()):
            session.end()
            control.reset(0)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Dialling

    def _prepare(
        self, connection: Connection, path: str, *, is_retry: bool = False
    ) -> asyncio.Task[LanLink | None]:
        """The link to that peer, measured for that path; concurrent calls share the work."""
        task = self._preparing.get(connection)
        if task is None:
            task = self._preparing[connection] = self._spawn(
                self._measured(connection, path, is_retry)
            )
            task.add_done_callback(lambda _: self._preparing.pop(connection, None))
        return task

    async def _measured(self, connection: Connection, path: str, is_retry: bool) -> LanLink | None:
        peer_id = connection.peer_id
        try:
            link = self._links.get(connection) or await self._start_link(connection)
            link.moved()
            verdict = self._verdict(peer_id, path)
            if verdict is None or is_retry:
                verdict = await self._measure(connection, link, path)
        except LanBlocked as error:
            self._decide(peer_id, path, LanCarrierKind.QUIC, str(error))
            return None
        except PieceworkError as error:
            log.info("no fast path to %s this time: %s", peer_id.short, error)
            return None
        return link if verdict.carrier is LanCarrierKind.TCP else None

    async def _start_link(self, connection: Connection) -> LanLink:
        link = LanLink(connection, self._client_context, self.settings, self._scratch)
        await link.start()
        self._links[connection] = link
        self._spawn(self._watch(connection, link))
        return link

    async def _watch(self, connection: Connection, link: LanLink) -> None:
        try:
            await link.watch()
        finally:
            self._links.pop(connection, None)

    async def _measure(self, connection: Connection, link: LanLink, path: str) -> LanVerdict:
        count, timeout_s = self.settings.echo_count, self.settings.measure_timeout_s
        over_tcp = await link.open(ECHO_PROTOCOL)
        tcp_s = await echo_round_trip_s(over_tcp, count, timeout_s) if over_tcp else None
        over_quic = await connection.open_stream(ECHO_PROTOCOL)
        quic_s = await echo_round_trip_s(over_quic, count, timeout_s)
        if link.session.is_over:
            raise PeerGone("The connection ended while it was measured.")
        carrier, reason = choose(tcp_s, quic_s)
        return self._decide(connection.peer_id, path, carrier, reason, tcp_s, quic_s)

    def _verdict(self, peer_id: PeerId, path: str) -> LanVerdict | None:
        verdict = self._verdicts.get(peer_id)
        return verdict if verdict is not None and verdict.path == path else None

    def _decide(
        self,
        peer_id: PeerId,
        path: str,
        carrier: LanCarrierKind,
        reason: str,
        tcp_s: float | None = None,
        quic_s: float | None = None,
    ) -> LanVerdict:
        log.info("streams to %s go over %s: %s", peer_id.short, carrier, reason)
        self._verdicts.pop(peer_id, None)
        if len(self._verdicts) >= self.settings.verdicts_max:
            del self._verdicts[next(iter(self._verdicts))]
        verdict = LanVerdict(peer_id, path, carrier, reason, monotonic(), tcp_s, quic_s)
        self._verdicts[peer_id] = verdict
        return verdict

    # Listening

    async def _serve_control(self, control: Stream) -> None:
        """The handler of LAN_PROTOCOL: hands out tickets as long as the connection lives."""
        session = LanSession(control.peer_id)
        siblings = sum(other.peer_id == session.peer_id for other in self._sessions)
        if (
            self._is_closed
            or control.path_kind is not PathKind.LAN
            or siblings >= self.settings.sessions_per_peer_max
        ):
            return
        self._sessions[session] = control
        try:
            while (frame := await control.receive()) is not None:
                await control.send(self._offer(session, Want.decode(frame)).encode())
        except RemoteProtocolError as error:
            log.info("%s asked for LAN tickets wrongly: %s", session.peer_id.short, error)
        finally:
            del self._sessions[session]
            self._tickets.revoke(session)
            session.end()

    def _offer(self, session: LanSession, want: Want) -> Offer:
        settings, now = self.settings, monotonic()
        count = min(want.count, settings.tickets_per_peer_max)
        return Offer(
            port=self.port,
            certificate_hash=self._certificate_hash,
            lifetime_ms=int(settings.ticket_lifetime_s * 1000),
            hosts=self._lan_hosts(),
            tickets=tuple(self._tickets.issue(session, now) for _ in range(count)),
        )

    def _lan_hosts(self) -> tuple[LanHost, ...]:
        speeds = {local.host: local.speed_mbits for local in local_addresses()}
        hosts = [host for host in local_hosts(self._listen_host) if not is_loopback(host)]
        return tuple(LanHost(h, speeds.get(h, 0)) for h in hosts[: self.settings.hosts_max])

    def _serve(self, carrier: LanCarrier, session: LanSession, protocol: str) -> None:
        if sum(other.stream_count for other in self._sessions) >= self.settings.incoming_max:
            self.counts.over_limit_closed += 1
            carrier.abort()
            return
        self.counts.served += 1
        carrier.write_raw(accepted(self._tickets.issue(session, monotonic())))
        stream = LanStream(
            carrier,
            session.peer_id,
            is_ours=False,
            linger_s=self.settings.linger_s,
            on_closed=session.discard,
        )
        session.add(stream)
        carrier.begin(stream)
        self._host.on_stream(stream, protocol)

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
