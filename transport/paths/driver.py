"""Drives the path manager of one link: one timer, its probes, its punch, its search for path MTU.

A QUIC connection is attached when it is made; from then on it is moved beneath its streams.
"""

import logging
from collections.abc import Callable
from time import monotonic
from typing import Final

from transport.base import PathKind
from transport.paths.actions import (
    Answered,
    PathDoubted,
    PeerDead,
    SendProbe,
    UsePath,
    WantSignal,
)
from transport.paths.holepunch import Punch
from transport.paths.manager import PathManager
from transport.paths.mtu import LAN_SIZES, WAN_SIZES, PathMTU
from transport.paths.path_address import PathAddress, first_datagram_bytes, is_direct, path_text
from transport.paths.silence import SILENCE_S
from transport.quic.connection import QuicConnection
from transport.quic.endpoint import Endpoint
from transport.quic.seams import ConnectionState
from transport.timer import LazyTimer

__all__ = ["PathDriver"]

log = logging.getLogger(__name__)

_TIMEOUTS_DOUBTFUL: Final = 3
"""Probe timeouts of QUIC after which the datagram size is confirmed; one alone is a lost tail."""

_POLL_GAP_MIN_S: Final = 0.001
"""A timer that is due at once still lets the event loop turn."""


class PathDriver:
    """The `PathKeeper` of its connection. Owned by one link, in one event loop."""

    def __init__(
        self,
        endpoint: Endpoint,
        manager: PathManager,
        *,
        on_path: Callable[[UsePath], None],
        on_want_signal: Callable[[str], None],
        on_doubted: Callable[[], None],
        on_over: Callable[[str], None],
    ) -> None:
        """`on_over`: the peer is dead or the connection closed; nothing follows."""
        self.manager = manager
        self.connection: QuicConnection | None = None
        self._endpoint = endpoint
        self._on_path = on_path
        self._on_want_signal = on_want_signal
        self._on_doubted = on_doubted
        self._on_over = on_over
        self._punch: Punch | None = None
        self._mtu: PathMTU | None = None
        self._timeouts_seen = 0
        self._deferred: UsePath | None = None
        self._timer = LazyTimer(self.run)

    def attach(self, connection: QuicConnection) -> None:
        """Manage the paths of this connection from now on."""
        self.connection = connection
        connection.keeper = self
        self._deferred = None
        if (current := self.manager.current) is not None:
            if current.path == connection.path.address:
                connection.path.use(current.path, current.kind)
            else:
                self._move(UsePath(current.path, current.kind, is_forced=False))
        if connection.state is ConnectionState.OPEN:
            self._on_open()
        else:
            connection.verified.add_done_callback(lambda _: self._on_open())
        self.run()

    def begin_punch(self, punch: Punch) -> None:
        """Instead of one that may be under way."""
        self._punch = punch
        self.run()

    def receive(self, data: bytes, source: PathAddress, now: float) -> None:
        """A PROBE or PROBED of the link. Raises RemoteProtocolError if malformed."""
        answered = self.manager.receive(data, source, now)
        if answered is not None:
            self._on_answered(answered, now)
        self.run()

    def stop(self) -> None:
        self._timer.cancel()
        self._punch = self._mtu = None
        if self.connection is not None:
            self.connection.keeper = None
            self.connection = None

    # The connection's side

    def on_heard(self, path: PathAddress, now: float) -> None:
        self.manager.on_heard(path, now)
        current = self.manager.current
        if current is None or path != current.path:
            self._timer.set(now + _POLL_GAP_MIN_S)

    def on_sent(self, now: float) -> None:
        self.manager.on_sent(now)
        self._timer.set(now + SILENCE_S)
        if self._mtu is not None and self._has_new_timeouts():
            self._mtu.on_doubted(now)
            self._timer.set(now + _POLL_GAP_MIN_S)

    def on_closed(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            self._on_over(str(connection.error or "the connection is closed"))

    # One turn

    def run(self) -> None:
        """Do what is due, and set the timer."""
        now = monotonic()
        if self._punch is not None:
            self._run_punch(self._punch, now)
        for action in self.manager.poll(now):
            match action:
                case SendProbe(path, datagram):
                    self._endpoint.send([datagram], path)
                case UsePath():
                    self._use(action)
                case WantSignal(reason):
                    self._on_want_signal(reason)
                case PathDoubted():
                    self._on_doubted()
                case PeerDead(reason):
                    self._on_dead(reason)
                    return
        due = self.manager.next_timer(now)
        if self._mtu is not None:
            due = min(due, self._run_mtu(self._mtu, now))
        if self._punch is not None:
            due = min(due, self._punch.next_timer())
        self._timer.set(max(due, now + _POLL_GAP_MIN_S))

    def _run_punch(self, punch: Punch, now: float) -> None:
        for host, port in punch.poll(now):
            address = self._endpoint.udp.to_socket_address(host, port)
            if address is not None:
                self._endpoint.send([self.manager.make_probe(address, now)], address)
        if punch.is_over:
            log.info("hole punching %s: %s", punch.outcome.value, punch.reason)
            self._punch = None

    def _run_mtu(self, mtu: PathMTU, now: float) -> float:
        """When to look again."""
        current = self.manager.current
        if current is None or self.manager.is_doubtful:
            return now + SILENCE_S
        size = mtu.poll(now, current.rtt_s or 0.0)
        if size is not None:
            probe = self.manager.make_probe(current.path, now, size)
            self._endpoint.send([probe], current.path)
        return mtu.next_timer()

    def _has_new_timeouts(self) -> bool:
        """Whether several flights of QUIC packets went unanswered since this was last true."""
        if self.connection is None:
            return False
        count = self.connection.core.probe_timeout_count
        if count - self._timeouts_seen < _TIMEOUTS_DOUBTFUL:
            return False
        self._timeouts_seen = count
        return True

    def _on_answered(self, answered: Answered, now: float) -> None:
        if self._punch is not None and is_direct(answered.path):
            self._punch.on_proved(answered.kind, path_text(answered.path), now)
        current = self.manager.current
        if self._mtu is not None and current is not None and answered.path == current.path:
            self._mtu.on_answered(answered.size, now)

    def _on_dead(self, reason: str) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.keeper = None
            connection.give_up(reason)
        self._on_over(reason)

    # Moving

    def _use(self, use: UsePath) -> None:
        self._mtu = None
        self._on_path(use)
        self._move(use)

    def _move(self, use: UsePath) -> None:
        """A handshake stays where it began unless that dies: a Retry's token is bound to it."""
        connection = self.connection
        if connection is None or connection.is_closed:
            return
        if connection.state is ConnectionState.HANDSHAKING and not use.is_forced:
            self._deferred = use
            return
        self._deferred = None
        connection.path.use(use.path, use.kind)
        connection.core.change_path(
            is_lan=use.kind is PathKind.LAN,
            datagram_bytes=first_datagram_bytes(use.path, connection.settings),
            keep_estimates=use.is_same_line,
            now=monotonic(),
        )
        # At once: its answer tells what was lost on the path before, and its round trip.
        connection.ping()
        self._begin_mtu()

    def _on_open(self) -> None:
        connection = self.connection
        if connection is None or connection.state is not ConnectionState.OPEN:
            return
        if self._deferred is not None:
            self._move(self._deferred)
        self._begin_mtu()
        self.run()

    def _begin_mtu(self) -> None:
        """Search on direct paths: relays and tunnels have a size of their own."""
        connection, current = self.connection, self.manager.current
        if connection is None or current is None or not is_direct(current.path):
            return
        if connection.state is not ConnectionState.OPEN or self._mtu is not None:
            return
        sizes = LAN_SIZES if current.kind is PathKind.LAN else WAN_SIZES
        first = first_datagram_bytes(current.path, connection.settings)
        self._mtu = PathMTU(sizes, first, monotonic(), connection.core.set_datagram_bytes)
