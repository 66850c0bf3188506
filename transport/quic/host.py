"""`QuicHost`: this node's data socket, as a `Host`.

    host = await QuicHost.start(key)
    host.set_handler("/piecework/session/1", serve)
    connection = await host.connect(peer_id, addresses, timeout_s=5)

One UDP socket listens and dials. Identity is mutual libp2p TLS; ALPN is `libp2p`.
"""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from time import monotonic
from typing import Final

from protocol.errors import LocalProtocolError
from protocol.identity import KeyPair, PeerId
from transport.address import Address, AnyAddress
from transport.base import Host, PathKind, StreamHandler
from transport.errors import Attempt, DialFailed
from transport.handlers import Handlers
from transport.interfaces import local_hosts
from transport.lan.stream import LanStream
from transport.libp2p_identify import serve_basics
from transport.paths.path_address import PathAddress
from transport.quic.budget import HeldBudget
from transport.quic.certificate import make_certificate
from transport.quic.connection import QuicConnection
from transport.quic.dialing import dial, dial_unknown
from transport.quic.endpoint import Endpoint, EndpointStatistics
from transport.quic.peer_memory import LinkEstimate, PeerMemory
from transport.quic.seams import CloseCode
from transport.quic.settings import QuicSettings
from transport.quic.stream import QuicStream
from transport.udp.udp_socket import UdpSocket

__all__ = ["QuicHost"]

log = logging.getLogger(__name__)

_DIAL_GRACE_S: Final = 1.0
"""A dial ends by itself shortly after its timeout, with reasons that are worth the wait."""


class QuicHost(Host):
    """Make one with `start`; close it in the same event loop."""

    def __init__(
        self, key: KeyPair, udp: UdpSocket, listen_host: str, settings: QuicSettings
    ) -> None:
        self._peer_id = key.peer_id
        self._settings = settings
        self._listen_host = listen_host
        self._port = udp.port
        self._handlers = Handlers()
        self._peers: dict[PeerId, list[QuicConnection]] = {}
        self._dials: dict[PeerId, asyncio.Task[QuicConnection]] = {}
        self._memory = PeerMemory()
        self.budget = HeldBudget[QuicConnection]()
        self._is_closed = False
        self.endpoint = Endpoint(udp, make_certificate(key), self, settings)

    @classmethod
    async def start(
        cls,
        key: KeyPair,
        *,
        listen_host: str = "0.0.0.0",
        port: int = 0,
        settings: QuicSettings | None = None,
    ) -> "QuicHost":
        """Bind the socket and begin to listen. `port` 0 takes a free one. Raises OSError."""
        settings = settings or QuicSettings()
        udp = UdpSocket(listen_host, port, settings.socket_buffer_bytes)
        host = cls(key, udp, listen_host, settings)
        serve_basics(host, lambda: host._handlers.protocols)
        return host

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    @property
    def addresses(self) -> tuple[Address, ...]:
        hosts = local_hosts(self._listen_host)
        return tuple(Address(host, self._port, self._peer_id) for host in hosts)

    def set_handler(self, protocol: str, handler: StreamHandler | None) -> None:
        self._handlers.set(protocol, handler)

    @property
    def port(self) -> int:
        """The data socket's UDP port."""
        return self._port

    def living(self, peer_id: PeerId) -> QuicConnection | None:
        """The newest open connection to that peer."""
        siblings = self._peers.get(peer_id)
        return siblings[-1] if siblings else None

    def connections(self) -> tuple[QuicConnection, ...]:
        return tuple(c for connections in self._peers.values() for c in connections)

    def statistics(self) -> EndpointStatistics:
        return self.endpoint.statistics()

    async def connect(
        self, peer_id: PeerId, addresses: Sequence[AnyAddress], *, timeout_s: float
    ) -> QuicConnection:
        """The newest living connection to that peer, or a new one.

        Concurrent calls for one peer share the first one's dial, addresses and all. Addresses of
        other kinds than the data socket's are left alone.
        """
        if self._is_closed:
            raise LocalProtocolError("The host is closed.")
        if peer_id == self._peer_id:
            raise DialFailed(str(peer_id), (Attempt("-", "that is this node itself", 0.0),))
        if living := self._peers.get(peer_id):
            return living[-1]
        task = self._dials.get(peer_id) or self._begin_dial(
            peer_id, _own_kind(addresses), timeout_s
        )
        try:
            return await asyncio.wait_for(asyncio.shield(task), timeout_s + _DIAL_GRACE_S)
        except TimeoutError:
            reason = "another dial of the same peer is still under way"
        except asyncio.CancelledError:
            if not task.cancelled():
                raise  # it was our caller who was cancelled, not the dial
            reason = "this host was closed"
        raise DialFailed(str(peer_id), (Attempt("-", reason, timeout_s),))

    async def dial(
        self, peer_id: PeerId, addresses: Sequence[AnyAddress], *, timeout_s: float
    ) -> QuicConnection:
        """A new connection, shared with nobody: cancelled, it is called off. Raises DialFailed."""
        return await dial(self.endpoint, peer_id, _own_kind(addresses), self._settings, timeout_s)

    async def connect_at(self, host: str, port: int, *, timeout_s: float) -> QuicConnection:
        """A new connection to whoever answers at that UDP address; its `peer_id` says who.

        For addresses that a person typed. Raises DialFailed.
        """
        if self._is_closed:
            raise LocalProtocolError("The host is closed.")
        return await dial_unknown(self.endpoint, host, port, timeout_s)

    async def close(self) -> None:
        if self._is_closed:
            return
        self.say_goodbye()
        self._is_closed = True
        await self._handlers.cancel()
        self.endpoint.close()

    def say_goodbye(self) -> None:
        """Close every connection, while what carries their last datagrams still stands."""
        for connection in self.endpoint.connections():
            connection.close_now(CloseCode.GOODBYE, "the peer shut down")

    def _begin_dial(
        self, peer_id: PeerId, addresses: Sequence[Address], timeout_s: float
    ) -> asyncio.Task[QuicConnection]:
        task = self._handlers.spawn(
            dial(self.endpoint, peer_id, addresses, self._settings, timeout_s)
        )
        self._dials[peer_id] = task
        task.add_done_callback(partial(self._on_dialled, peer_id))
        return task

    def _on_dialled(self, peer_id: PeerId, task: asyncio.Task[QuicConnection]) -> None:
        del self._dials[peer_id]
        if not task.cancelled():
            task.exception()  # seen here, in case nobody waits any more

    # What connections need of their host

    def send(self, datagrams: list[bytes], path: PathAddress) -> None:
        self.endpoint.send(datagrams, path)

    def add_route(self, connection_id: bytes, connection: QuicConnection) -> None:
        self.endpoint.add_route(connection_id, connection)

    def remove_route(self, connection_id: bytes) -> None:
        self.endpoint.remove_route(connection_id)

    def is_served(self, protocol: str) -> bool:
        return self._handlers.is_served(protocol)

    def on_verified(self, connection: QuicConnection) -> None:
        self.endpoint.on_verified(connection)
        siblings = self._peers.setdefault(connection.peer_id, [])
        siblings.append(connection)
        if len(siblings) > self._settings.connections_per_peer_max:
            siblings[0].close_soon(CloseCode.TOO_MANY, "too many connections of one peer")

    def recall(self, peer_id: PeerId, kind: PathKind) -> LinkEstimate | None:
        """What a way of that kind to the peer carried before. A LAN needs no such help."""
        if kind is PathKind.LAN:
            return None
        return self._memory.recall(peer_id, monotonic(), relayed=kind is PathKind.RELAYED)

    def on_held(self, connection: QuicConnection, held_bytes: int) -> None:
        """Told after every batch that arrived; what is read in between makes it less."""
        if (most := self.budget.note(connection, held_bytes)) is not None:
            log.warning("peers make this host hold too much unread: closing the worst")
            most.close_soon(CloseCode.HOLDS_TOO_MUCH, "too much is held unread")

    def on_closed(self, connection: QuicConnection) -> None:
        self.endpoint.on_closed(connection)
        self.budget.forget(connection)
        if connection.was_verified:
            self._remember(connection)
            siblings = self._peers[connection.peer_id]
            siblings.remove(connection)
            if not siblings:
                del self._peers[connection.peer_id]

    def _remember(self, connection: QuicConnection) -> None:
        bandwidth, min_rtt_s = connection.core.link_estimate()
        kind = connection.path_kind
        if bandwidth is not None and min_rtt_s > 0 and kind is not PathKind.LAN:
            estimate = LinkEstimate(bandwidth, min_rtt_s)
            is_relayed = kind is PathKind.RELAYED
            self._memory.remember(connection.peer_id, estimate, monotonic(), relayed=is_relayed)

    def on_stream(self, stream: QuicStream | LanStream, protocol: str) -> None:
        self._handlers.serve(stream, stream, protocol)


def _own_kind(addresses: Sequence[AnyAddress]) -> tuple[Address, ...]:
    return tuple(address for address in addresses if isinstance(address, Address))
