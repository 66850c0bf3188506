"""The socket's event loop: routes datagrams to connections by connection id.

One UDP socket is server and client at once. The first byte says whose a datagram is: below 0x40
ours (kept for reflector, punching and forwarder), with bit 0x40 QUIC (RFC 9000 section 17, RFC
9443), anything else noise.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final

from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicHeader, pull_quic_header

from protocol.identity import PeerId
from transport.admission import Admission, EndpointCounts
from transport.base import PathKind
from transport.certificate import TlsIdentity
from transport.interfaces import is_loopback, path_kind_of
from transport.quic_connection import QuicConnection
from transport.quic_private import QuicCore
from transport.quic_seams import ConnectionOwner
from transport.settings import ALPN, CONNECTION_ID_BYTES, QuicSettings
from transport.udp_socket import SocketAddress, UdpSocket, UdpStatistics

__all__ = ["Endpoint", "EndpointStatistics", "OwnPacketHandler"]

_LONG_HEADER_BIT: Final = 0x80
_QUIC_FIXED_BIT: Final = 0x40

OwnPacketHandler = Callable[[bytes, SocketAddress], None]
"""Takes a datagram whose first byte is below 0x40, and where it came from. Must not raise."""


@dataclass(frozen=True, slots=True)
class EndpointStatistics:
    connection_count: int
    half_open_count: int
    udp: UdpStatistics
    counts: EndpointCounts


class Endpoint:
    """Owns the socket and the table of connection ids; lives in one event loop."""

    def __init__(
        self,
        udp: UdpSocket,
        identity: TlsIdentity,
        owner: ConnectionOwner,
        settings: QuicSettings,
    ) -> None:
        self.udp = udp
        self.counts = EndpointCounts()
        self.own_packet_handler: OwnPacketHandler | None = None
        """Without one, packets of ours are dropped and counted."""
        self._identity = identity
        self._owner = owner
        self._settings = settings
        self._admission = Admission(
            settings, self.counts, lambda packet, address: udp.send([packet], address)
        )
        self._routes: dict[bytes, QuicConnection] = {}
        self._connections: dict[QuicConnection, set[bytes]] = {}
        """Each living connection with its connection ids."""
        self._half_open: set[QuicConnection] = set()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(udp.fileno(), self._on_readable)

    def connections(self) -> tuple[QuicConnection, ...]:
        """All that are not closed, verified or not."""
        return tuple(self._connections)

    def statistics(self) -> EndpointStatistics:
        return EndpointStatistics(
            len(self._connections),
            len(self._half_open),
            self.udp.statistics(),
            replace(self.counts),
        )

    def close(self) -> None:
        self._loop.remove_reader(self.udp.fileno())
        self.udp.close()

    def dial(self, address: SocketAddress, expected: PeerId | None) -> QuicConnection:
        """Begin a handshake from the listening socket; wait on its `verified`."""
        core = QuicCore(
            configuration=self._configuration(address, is_client=True),
            streams_max=self._settings.streams_max,
        )
        connection = self._register(core, address, expected)
        connection.start()
        return connection

    def add_route(self, connection_id: bytes, connection: QuicConnection) -> None:
        if connection in self._connections:
            self._routes[connection_id] = connection
            self._connections[connection].add(connection_id)

    def remove_route(self, connection_id: bytes) -> None:
        connection = self._routes.pop(connection_id, None)
        if connection is not None:
            self._connections[connection].discard(connection_id)

    def on_verified(self, connection: QuicConnection) -> None:
        self._half_open.discard(connection)

    def on_closed(self, connection: QuicConnection) -> None:
        self._half_open.discard(connection)
        for connection_id in self._connections.pop(connection, ()):
            del self._routes[connection_id]

    def _on_readable(self) -> None:
        now = monotonic()
        touched: dict[QuicConnection, None] = {}
        for data, source in self.udp.receive(self._settings.receive_batch_max):
            connection = self._route(data, source, now)
            if connection is None:
                continue
            connection.receive(data, source, now)
            if connection.core.has_begun:
                touched[connection] = None
            else:
                connection.abandon("its first packet was no handshake")
        for connection in touched:
            connection.after_receive()

    def _route(self, data: bytes, source: SocketAddress, now: float) -> QuicConnection | None:
        """Whose datagram this is; None when it was dropped or answered."""
        first = data[0] if data else 0
        if not first & (_QUIC_FIXED_BIT | _LONG_HEADER_BIT):
            if self.own_packet_handler is None or not data:
                self.counts.own_packets_dropped += 1
            else:
                self.own_packet_handler(data, source)
            return None
        if not first & _LONG_HEADER_BIT:
            connection = self._routes.get(data[1 : 1 + CONNECTION_ID_BYTES])
            if connection is None:
                self.counts.unroutable_dropped += 1
            return connection
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=CONNECTION_ID_BYTES)
        except ValueError:  # the fixed bit is checked there too
            self.counts.noise_dropped += 1
            return None
        connection = self._routes.get(header.destination_cid)
        if connection is not None:
            return connection
        return self._admit(header, len(data), source, now)

    def _admit(
        self, header: QuicHeader, size: int, source: SocketAddress, now: float
    ) -> QuicConnection | None:
        """A new connection for the sender of this first packet, if he may have one."""
        admitted = self._admission.decide(
            header,
            size,
            source,
            now,
            connection_count=len(self._connections),
            half_open_count=len(self._half_open),
        )
        if admitted is None:
            return None
        core = QuicCore(
            configuration=self._configuration(source, is_client=False),
            streams_max=self._settings.streams_max,
            original_destination_connection_id=admitted.original_destination_id,
            retry_source_connection_id=admitted.retry_source_id,
        )
        connection = self._register(core, source, None)
        self.add_route(header.destination_cid, connection)
        self._half_open.add(connection)
        return connection

    def _register(
        self, core: QuicCore, address: SocketAddress, expected: PeerId | None
    ) -> QuicConnection:
        if path_kind_of(address[0]) is PathKind.LAN:
            core.relax_for_lan(self._settings.lan_initial_window_datagrams)
        connection = QuicConnection(core, self._owner, address, self._settings, expected)
        self._connections[connection] = set()
        self.add_route(core.host_cid, connection)
        return connection

    def _configuration(self, address: SocketAddress, *, is_client: bool) -> QuicConfiguration:
        """What aioquic is told for a peer at `address`; verification is ours, so CERT_NONE."""
        settings = self._settings
        is_lan = path_kind_of(address[0]) is PathKind.LAN
        return QuicConfiguration(
            alpn_protocols=[ALPN],
            certificate=self._identity.certificate,
            private_key=self._identity.private_key,
            connection_id_length=CONNECTION_ID_BYTES,
            congestion_control_algorithm=settings.congestion_control,
            idle_timeout=settings.idle_timeout_s,
            initial_rtt=settings.lan_initial_rtt_s if is_lan else settings.initial_rtt_s,
            is_client=is_client,
            max_data=settings.connection_window_bytes,
            max_stream_data=settings.stream_window_bytes,
            max_datagram_size=(
                settings.loopback_datagram_bytes
                if is_loopback(address[0])
                else settings.datagram_bytes
            ),
            verify_mode=ssl.CERT_NONE,
        )
