"""A link: everything known of the ways to one peer, before and while a QUIC connection uses them.

Both ends make one from what they agreed on by signalling: an id, a key, and who initiated.

    link = Link(probing, link_id, key, peer_id, is_initiator=True)
    link.add_circuit(path, side, secret)                  # works as soon as both sides are bound
    link.punch(own, peers, own_hints, peer_hints, start_at)   # in parallel
    connection = await link.connect(timeout_s=10)         # the responder: link.wait_connection(10)

The initiator is the QUIC client and begins over the first path that answers; the responder's link
takes the connection over when it arrives by any path of the link. Then it moves to better paths and
back beneath its streams. The link ends with its connection, or when the peer is dead.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from protocol.identity import PeerId
from protocol.reach import Candidate, Filtering, Mapping, NATHints
from transport.base import PathKind
from transport.errors import Attempt, DialFailed
from transport.paths.actions import UsePath
from transport.paths.driver import PathDriver
from transport.paths.forwarder_client import CircuitBinding
from transport.paths.holepunch import Punch
from transport.paths.manager import PathManager
from transport.paths.path_address import CircuitPath, PathAddress
from transport.paths.probing import Probing
from transport.paths.state import PathReport
from transport.quic.connection import QuicConnection
from transport.quic.seams import CloseCode, ConnectionState

__all__ = ["Link"]

log = logging.getLogger(__name__)

_PUNCHES_MAX: Final = 16
"""Of which the outcome is remembered."""


class Link:
    """Owned by whoever signalled it; closed by him, or by itself when it is over."""

    def __init__(
        self,
        probing: Probing,
        link_id: bytes,
        key: bytes,
        peer_id: PeerId,
        *,
        is_initiator: bool,
        on_want_signal: Callable[[str], None] = lambda reason: None,
        on_over: Callable[[str], None] = lambda reason: None,
        on_path: Callable[[PathAddress, PathKind], None] = lambda path, kind: None,
    ) -> None:
        """`link_id` has 8 bytes, `key` 32; both ends have the same, and only one is the initiator.

        `on_want_signal(reason)`: exchange candidates and punch again, if that is possible.
        `on_over(reason)`: called once. `on_path`: another path is in use.
        Raises LocalProtocolError if that link is there already, or at the limit.
        """
        self.link_id = link_id
        self.peer_id = peer_id
        self.is_initiator = is_initiator
        self.over_reason = ""
        """Why the link is over; empty while it is not."""
        self._probing = probing
        self._notify_over = on_over
        self._notify_path = on_path
        self._punches: deque[Punch] = deque(maxlen=_PUNCHES_MAX)
        self._bindings: dict[CircuitPath, CircuitBinding] = {}
        self._began_at = monotonic()
        loop = asyncio.get_running_loop()
        self._first_path: asyncio.Future[PathAddress] = loop.create_future()
        self._connected: asyncio.Future[QuicConnection] = loop.create_future()
        self._driver = PathDriver(
            probing.endpoint,
            PathManager(link_id, key, is_initiator=is_initiator),
            on_path=self._on_path,
            on_want_signal=on_want_signal,
            on_doubted=self._rebind,
            on_over=self._end,
        )
        probing.add_link(self)

    @property
    def connection(self) -> QuicConnection | None:
        return self._driver.connection

    @property
    def path(self) -> PathAddress | None:
        """The one in use."""
        current = self._driver.manager.current
        return None if current is None else current.path

    @property
    def reports(self) -> tuple[PathReport, ...]:
        """What became of each path; the living ones last."""
        return self._driver.manager.reports(monotonic())

    @property
    def circuits(self) -> tuple[CircuitBinding, ...]:
        """Ours, and whether their relays answer."""
        return tuple(self._bindings.values())

    @property
    def punches(self) -> tuple[str, ...]:
        """Outcome and reason of each punch, oldest first."""
        return tuple(f"{punch.outcome.value}: {punch.reason}" for punch in self._punches)

    # What signalling and others know

    def add_circuit(self, path: CircuitPath, side: int, secret: bytes) -> None:
        """Bind our side of a circuit, keep it bound, and use it as a path.

        Raises LocalProtocolError when the host has too many circuits.
        """
        if not self.over_reason and path not in self._bindings:
            self._bindings[path] = CircuitBinding(self._probing, path, side, secret)
            self.add_path(path, PathKind.RELAYED)

    def add_path(self, path: PathAddress, kind: PathKind) -> None:
        """A path to try: a tunnel, or a public address of the peer."""
        if not self.over_reason:
            self._driver.manager.add_path(path, kind, monotonic())
            self._driver.run()

    def remove_path(self, path: PathAddress, reason: str) -> None:
        """A path that is known to be gone; a circuit of ours is given up."""
        if isinstance(path, CircuitPath) and path in self._bindings:
            self._bindings.pop(path).close()
        if not self.over_reason:
            self._driver.manager.remove_path(path, reason, monotonic())
            self._driver.run()

    def punch(
        self,
        own: Sequence[Candidate],
        peers: Sequence[Candidate],
        own_hints: NATHints,
        peer_hints: NATHints,
        start_at: float,
    ) -> None:
        """Punch at that moment (monotonic s), agreed on by SYNC; replaces one under way."""
        if not self.over_reason:
            punch = Punch(own, peers, own_hints, peer_hints, start_at)
            self._punches.append(punch)
            if any(_is_public(hints) for hints in (own_hints, peer_hints)):
                self._driver.manager.found_kind = PathKind.DIRECT
            self._driver.begin_punch(punch)

    def on_signal_alive(self, now: float) -> None:
        """Signalling heard of the peer: he lives, though no path may."""
        self._driver.manager.on_signal_alive(now)

    def network_changed(self) -> None:
        """Addresses of ours changed: check every path now, and ask for a new punch."""
        if not self.over_reason:
            self._rebind()
            self._driver.manager.network_changed(monotonic())
            self._driver.run()

    # The connection

    async def wait_path(self, timeout_s: float) -> PathAddress:
        """The first path that the peer answered on. Raises DialFailed with every attempt."""
        try:
            return await asyncio.wait_for(asyncio.shield(self._first_path), timeout_s)
        except TimeoutError:
            raise self._dial_failed("no path answered") from None

    async def connect(self, timeout_s: float) -> QuicConnection:
        """Begin QUIC over the first path that answers; the initiator's part. Raises DialFailed."""
        deadline = monotonic() + timeout_s
        path = await self.wait_path(timeout_s)
        connection = self._probing.endpoint.dial(self.path or path, self.peer_id)
        self.attach(connection)
        try:
            remaining_s = max(0.0, deadline - monotonic())
            await asyncio.wait_for(asyncio.shield(connection.verified), remaining_s)
        except TimeoutError:
            connection.close_now(CloseCode.NOT_NEEDED, "dial timed out")
            raise self._dial_failed("the handshake did not complete") from None
        except asyncio.CancelledError:
            connection.close_now(CloseCode.NOT_NEEDED, "not wanted any more")
            raise
        if connection.state is not ConnectionState.OPEN:
            raise self._dial_failed(str(connection.error))
        return connection

    async def wait_connection(self, timeout_s: float) -> QuicConnection:
        """The verified connection, once the initiator made it. Raises DialFailed."""
        try:
            return await asyncio.wait_for(asyncio.shield(self._connected), timeout_s)
        except TimeoutError:
            raise self._dial_failed("the peer did not connect") from None

    def attach(self, connection: QuicConnection) -> None:
        """Manage this connection's paths; done by `connect` and `offer`, or by hand."""
        self._driver.attach(connection)
        if connection.state is ConnectionState.OPEN:
            self._on_verified(connection)
        else:
            connection.verified.add_done_callback(lambda _: self._on_verified(connection))

    # Called by Probing

    def receive(self, data: bytes, source: PathAddress, now: float) -> None:
        self._driver.receive(data, source, now)

    def offer(self, connection: QuicConnection) -> bool:
        """Take over a verified incoming connection of this peer if it came by a path of ours."""
        if self.is_initiator or self.connection is not None:
            return False
        if not self._driver.manager.knows(connection.path.address):
            return False
        self.attach(connection)
        return True

    def close(self) -> None:
        """Forget the link; a connection that it manages goes on where it is, unmanaged."""
        self._end("closed by this side")

    def _rebind(self) -> None:
        """Our NAT may have rebooted: then relays send to an address that is no longer ours."""
        for binding in self._bindings.values():
            binding.rebind()

    def _on_path(self, use: UsePath) -> None:
        if not self._first_path.done():
            self._first_path.set_result(use.path)
        self._notify_path(use.path, use.kind)

    def _on_verified(self, connection: QuicConnection) -> None:
        if connection.state is ConnectionState.OPEN and not self._connected.done():
            self._connected.set_result(connection)

    def _end(self, reason: str) -> None:
        if self.over_reason:
            return
        self.over_reason = reason
        self._probing.remove_link(self)
        self._driver.stop()
        for binding in self._bindings.values():
            binding.close()
        for future in (self._first_path, self._connected):
            if not future.done():
                future.set_exception(self._dial_failed(reason))
                future.exception()  # seen here, in case nobody waits
        log.info("the link to %s is over: %s", self.peer_id.short, reason)
        self._notify_over(reason)

    def _dial_failed(self, reason: str) -> DialFailed:
        now = monotonic()
        attempts = [
            Attempt(report.path, report.reason, (report.ended or now) - report.since)
            for report in self.reports
        ]
        attempts += [
            Attempt("hole punching", punch.reason, now - self._began_at) for punch in self._punches
        ]
        attempts.append(Attempt("link", reason, now - self._began_at))
        return DialFailed(str(self.peer_id), tuple(attempts))


def _is_public(hints: NATHints) -> bool:
    """Nothing has to be opened there: whoever knows the address gets in."""
    return hints.mapping is Mapping.NONE and hints.filtering is Filtering.OPEN
