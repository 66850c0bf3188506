"""Drives one aioquic connection: datagrams in, events out, one transmit per turn, one timer.

aioquic is shown one constant made-up peer address, so that it never decides about paths; the real
path is kept beside it and may change under a living connection (RFC 9000 lets only clients move).
A `keeper` chooses it and judges whether the peer lives; without one a server follows its client,
and `liveness` judges. Nothing a peer sends reaches a stream before its certificate is verified.
"""

import asyncio
import logging
from datetime import UTC, datetime
from time import monotonic
from typing import Final

from aioquic.quic import events

from protocol.identity import PeerId
from transport.base import Connection, PathKind
from transport.errors import IdentityMismatch, PeerGone, TimedOut, TransportError
from transport.paths.path_address import PathAddress, path_text
from transport.quic.certificate import verify_peer
from transport.quic.guard import guarded
from transport.quic.liveness import Liveness, Verdict
from transport.quic.path import QuicPath
from transport.quic.private import QuicCore
from transport.quic.seams import CloseCode, ConnectionOwner, ConnectionState, PathKeeper
from transport.quic.settings import QuicSettings
from transport.quic.stream import QuicStream
from transport.quic.streams import StreamTable
from transport.timer import LazyTimer

__all__ = ["VIRTUAL_ADDRESS", "QuicConnection"]

log = logging.getLogger(__name__)

VIRTUAL_ADDRESS: Final = ("peer", 0)
"""What aioquic believes every peer to be at: no IP address, so it follows no preferred one."""


class QuicConnection(Connection):
    """One peer's connection; everything runs in the event loop of its host."""

    def __init__(
        self,
        core: QuicCore,
        owner: ConnectionOwner,
        path: PathAddress,
        settings: QuicSettings,
        expected: PeerId | None = None,
    ) -> None:
        self.core = core
        self.settings = settings
        self.state = ConnectionState.HANDSHAKING
        self.error: TransportError | None = None
        """Why the connection is closed."""
        self._loop = asyncio.get_running_loop()
        self.verified: asyncio.Future[None] = self._loop.create_future()
        """Done when the peer is known or the connection is closed; look at `state` then."""
        self.path = QuicPath(path)
        self.keeper: PathKeeper | None = None
        """Set once, by whoever manages the paths to this peer."""
        self._owner = owner
        self._expected = expected
        self._peer_id: PeerId | None = None
        self._streams = StreamTable(core, self, owner, settings, self.schedule_transmit)
        self._is_transmit_due = False
        self._newest_heard = -1
        self._ping_count = 0
        self._timer = LazyTimer(self._on_timer)
        # Two more timers beside QUIC's: deadlines (first the handshake's), and the peer's life.
        now = monotonic()
        self._tick_at = now + settings.handshake_timeout_s
        self._liveness = Liveness(settings, now)

    @property
    def peer_id(self) -> PeerId:
        assert self._peer_id is not None, "a connection is handed out only when verified"
        return self._peer_id

    @property
    def was_verified(self) -> bool:
        return self._peer_id is not None

    @property
    def is_closed(self) -> bool:
        return self.state is ConnectionState.CLOSED

    @property
    def path_kind(self) -> PathKind:
        return self.path.kind

    @property
    def remote(self) -> str:
        return path_text(self.path.address)

    @property
    def round_trip_s(self) -> float:
        """The smoothed round trip; 0 before the first sample."""
        return self.core.round_trip_s

    async def open_stream(self, protocol: str) -> QuicStream:
        """Does not wait for the peer: a refusal is seen by the first `receive`."""
        if self.state is not ConnectionState.OPEN:
            raise self.error or PeerGone("The connection is not open.")
        return self._streams.open(protocol)

    async def close(self) -> None:
        self.close_now(CloseCode.GOODBYE, "closed by the peer")

    def close_now(self, code: CloseCode, reason: str) -> None:
        """Tell the peer and forget the connection, without waiting."""
        if self.state is not ConnectionState.CLOSED:
            self.error = self.error or PeerGone("This side closed the connection.")
            self.core.close(error_code=code, reason_phrase=reason)
            self.transmit()

    def close_soon(self, code: CloseCode, reason: str) -> None:
        """As `close_now`, but on the next turn: for callers within an event pass."""
        self._loop.call_soon(self.close_now, code, reason)

    def give_up(self, reason: str) -> None:
        """The peer is taken for dead; he is told all the same, should he come back."""
        if self.state is not ConnectionState.CLOSED:
            self.error = self.error or PeerGone(f"The peer is gone: {reason}.")
            self.close_soon(CloseCode.SILENT, "nothing was heard of you")

    def abandon(self, reason: str) -> None:
        """Forget the connection without a word to the peer."""
        if self.state is not ConnectionState.CLOSED:
            self._finish(PeerGone(f"The connection was dropped: {reason}."))

    def ping(self) -> None:
        """Send something now that the peer acknowledges."""
        self._ping_count += 1
        self.core.send_ping(self._ping_count)
        self.schedule_transmit()

    # Called by the endpoint

    def start(self) -> None:
        """Begin the handshake of a client."""
        self.core.connect(VIRTUAL_ADDRESS, monotonic())
        self.transmit()

    @guarded
    def receive(self, data: bytes, source: PathAddress, now: float) -> None:
        """Take one datagram. `after_receive` follows when the whole batch is taken."""
        core, path = self.core, self.path
        if source == path.address:
            core.receive_datagram(data, VIRTUAL_ADDRESS, now)
            path.on_received(len(data))
            return
        self._notice_heard(path.address, now)
        core.receive_datagram(data, VIRTUAL_ADDRESS, now)
        # Only a packet that was decrypted and is the newest moves the path, and without a keeper
        # only a server's: its client may move, it may not.
        is_follower = self.keeper is None and not core.is_client
        is_newest = self._notice_heard(source, now)
        if is_newest and is_follower and self.state is ConnectionState.OPEN:
            self.ping()
            path.move(source, self._ping_count, now)
            path.on_received(len(data))
            log.info("peer %s moved to another address", self.peer_id.short)

    def _notice_heard(self, source: PathAddress, now: float) -> bool:
        """Whether a newer packet was decrypted since the last look: then it came from `source`."""
        newest = self.core.newest_packet
        if newest == self._newest_heard:
            return False
        self._newest_heard = newest
        self._liveness.on_heard(now)
        if self.keeper is not None:
            self.keeper.on_heard(source, now)
        return True

    @guarded
    def after_receive(self) -> None:
        """One event pass for the batch; the transmit follows when readers have had their turn."""
        self._notice_heard(self.path.address, monotonic())
        self._process_events()
        if self.core.ended is not None:
            self.transmit()
            return
        self._streams.on_acknowledged()
        self._owner.on_held(self, self.core.held_bytes)
        self.schedule_transmit()

    def schedule_transmit(self) -> None:
        if not self._is_transmit_due and self.state is not ConnectionState.CLOSED:
            self._is_transmit_due = True
            self._loop.call_soon(self.transmit)

    @guarded
    def transmit(self) -> None:
        """Send what QUIC wants sent, and set the timer it wants set."""
        self._is_transmit_due = False
        if self.state is ConnectionState.CLOSED:
            return
        now = monotonic()
        if datagrams := [data for data, _ in self.core.datagrams_to_send(now)]:
            if not self.path.is_proved:
                datagrams = self.path.allow(datagrams, now)
            self._owner.send(datagrams, self.path.address)
            if self.keeper is not None:
                self.keeper.on_sent(now)
        self._process_events()
        if (end := self.core.ended) is not None:
            reason = end.reason_phrase or f"code {end.error_code}"
            self._finish(PeerGone(f"The connection is closed: {reason}."))
        else:
            self._timer.set(self._next_timer())

    # Events

    def _process_events(self) -> None:
        while (event := self.core.next_event()) is not None:
            match event:
                case (
                    events.StreamDataReceived()
                    | events.StreamReset()
                    | events.StopSendingReceived()
                ):
                    if self.state is ConnectionState.OPEN:
                        self._streams.on_event(event)
                case events.PingAcknowledged():
                    self.path.on_ping_acknowledged(event.uid)
                case events.ConnectionIdIssued():
                    self._owner.add_route(event.connection_id, self)
                case events.ConnectionIdRetired():
                    self._owner.remove_route(event.connection_id)
                case events.HandshakeCompleted():
                    self._verify_peer(event.alpn_protocol)

    def _verify_peer(self, alpn: str | None) -> None:
        try:
            self._peer_id = verify_peer(
                self.core.peer_certificates,
                alpn=alpn,
                expected=self._expected,
                now=datetime.now(UTC),
            )
        except IdentityMismatch as error:
            self.error = error
            self.core.close(error_code=CloseCode.IDENTITY, reason_phrase="identity not proved")
            return
        self.state = ConnectionState.OPEN
        self._tick_at = monotonic() + self.settings.keepalive_s
        self._liveness.on_heard(monotonic())
        self._owner.on_verified(self)
        if not self.verified.done():
            self.verified.set_result(None)

    def _finish(self, error: TransportError) -> None:
        self.error = error = self.error or error
        self.state = ConnectionState.CLOSED
        self._timer.cancel()
        if not self.verified.done():
            self.verified.set_result(None)
        self._streams.on_gone(error)
        self._owner.on_closed(self)
        if self.keeper is not None:
            self.keeper.on_closed()

    # The timer

    def _next_timer(self) -> float:
        due, wanted = self._tick_at, self.core.get_timer()
        if self.state is ConnectionState.OPEN:
            due = min(due, self._liveness.next_check(is_busy=self._streams.is_busy))
        return due if wanted is None else min(wanted, due)

    @guarded
    def _on_timer(self) -> None:
        now = monotonic()
        if self.state is ConnectionState.OPEN:
            self._check_liveness(now)
        wanted = self.core.get_timer()
        if wanted is not None and now >= wanted:
            self.core.handle_timer(now)
        if now >= self._tick_at:
            self._tick(now)
        self.transmit()

    def _check_liveness(self, now: float) -> None:
        slept_s = self._liveness.slept_s
        verdict = self._liveness.check(now, is_busy=self._streams.is_busy)
        if verdict is Verdict.GONE and self.keeper is None:
            self.give_up(f"nothing was heard for {self.settings.silence_max_s:g} s")
        elif verdict is not Verdict.FINE:  # a keeper has other ways to know
            self.ping()
        if self._liveness.slept_s > slept_s:
            self.core.postpone_idle_timeout(now)

    def _tick(self, now: float) -> None:
        self._tick_at = now + self.settings.keepalive_s
        if self.state is ConnectionState.HANDSHAKING:
            self.error = TimedOut("The handshake did not complete in time.")
            self.core.close(error_code=CloseCode.TIMED_OUT, reason_phrase="handshake timed out")
        else:
            self._streams.on_tick(now)
