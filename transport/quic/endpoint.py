"""The socket's event loop: routes datagrams to connections by connection id.

One UDP socket is server and client at once. The first byte says whose a datagram is: below 0x40
ours (`own_packet_handler`), with bit 0x40 QUIC (RFC 9000 section 17, RFC 9443), anything else
noise. What a relay forwards and what comes out of a tunnel is treated the same; only its path is
another, so a connection may begin on any path.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final

from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicHeader, pull_quic_header

from protocol.datagram import DatagramType
from protocol.identity import PeerId
from transport.base import PathKind
from transport.paths.path_address import (
    PathAddress,
    TunnelPath,
    address_kind,
    first_datagram_bytes,
)
from transport.paths.table import PathTable, TunnelSender
from transport.quic.admission import Admission, EndpointCounts
from transport.quic.certificate import TlsIdentity
from transport.quic.connection import QuicConnection
from transport.quic.private import QuicCore
from transport.quic.seams import ConnectionOwner
from transport.quic.settings import (
    ALPN,
    CONNECTION_ID_BYTES,
    INITIAL_RTT_S,
    LAN_INITIAL_RTT_S,
    QuicSettings,
)
from transport.udp.udp_socket import UdpSocket, UdpStatistics

__all__ = ["Endpoint", "EndpointStatistics", "OwnPacketHandler"]

_LONG_HEADER_BIT: Final = 0x80
_QUIC_FIXED_BIT: Final = 0x40
_FORWARDED: Final = bytes([DatagramType.FORWARDED])

OwnPacketHandler = Callable[[bytes, PathAddress], None]
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
        self.verified_handler: Callable[[QuicConnection], None] | None = None
        """Told of every connection whose peer is known now. Must not raise."""
        self.paths = PathTable(udp)
        self._identity = identity
        self._owner = owner
        self._settings = settings
        self._admission = Admission(
            settings, self.counts, lambda packet, path: self.paths.send([packet], path)
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

    def send(self, datagrams: Sequence[bytes], path: PathAddress) -> None:
        """Send all by one path. What cannot be sent is lost, as on the wire."""
        self.paths.send(datagrams, path)

    def register_tunnel(self, path: TunnelPath, send: TunnelSender) -> None:
        """`send` carries datagrams to the other end; hand what comes from there to `inject`."""
        self.paths.add_tunnel(path, send)

    def remove_tunnel(self, path: TunnelPath) -> None:
        self.paths.remove_tunnel(path)

    def inject(self, datagrams: Iterable[bytes], path: TunnelPath) -> None:
        """Take datagrams that came through a registered tunnel; others are dropped."""
        if self.paths.has_tunnel(path):
            self._take([(data, path) for data in datagrams if data])

    def dial(self, path: PathAddress, expected: PeerId | None) -> QuicConnection:
        """Begin a handshake from the listening socket; wait on its `verified`."""
        core = QuicCore(
            configuration=self._configuration(path, is_client=True),
            streams_max=self._settings.streams_max,
            upload=self._settings.upload,
        )
        connection = self._register(core, path, expected)
        if expected is not None:
            known = self._owner.recall(expected, address_kind(path))
            if known is not None:
                core.seed(known.bandwidth_bytes_s, known.min_rtt_s)
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
        if self.verified_handler is not None:
            self.verified_handler(connection)

    def on_closed(self, connection: QuicConnection) -> None:
        self._half_open.discard(connection)
        for connection_id in self._connections.pop(connection, ()):
            del self._routes[connection_id]

    def _on_readable(self) -> None:
        self._take(self.udp.receive(self._settings.receive_batch_max))

    def _take(self, arrived: Iterable[tuple[bytes, PathAddress]]) -> None:
        """One batch: every datagram to its connection, then one event pass for each of these."""
        now = monotonic()
        touched: dict[QuicConnection, None] = {}
        for wrapped, sender in arrived:
            data, source = wrapped, sender
            if data[:1] == _FORWARDED and isinstance(source, tuple):
                if (inner := self.paths.unwrap(data, source)) is None:
                    self.counts.forwarded_dropped += 1
                    continue
                data, source = inner
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

    def _route(self, data: bytes, source: PathAddress, now: float) -> QuicConnection | None:
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
        self, header: QuicHeader, size: int, source: PathAddress, now: float
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
            upload=self._settings.upload,
        )
        connection = self._register(core, source, None)
        self.add_route(header.destination_cid, connection)
        self._half_open.add(connection)
        return connection

    def _register(
        self, core: QuicCore, path: PathAddress, expected: PeerId | None
    ) -> QuicConnection:
        if address_kind(path) is PathKind.LAN:
            core.relax_for_lan()
        connection = QuicConnection(core, self._owner, path, self._settings, expected)
        self._connections[connection] = set()
        self.add_route(core.host_cid, connection)
        return connection

    def _configuration(self, path: PathAddress, *, is_client: bool) -> QuicConfiguration:
        """What aioquic is told for a peer at `path`; verification is ours, so CERT_NONE."""
        settings = self._settings
        is_lan = address_kind(path) is PathKind.LAN
        return QuicConfiguration(
            alpn_protocols=[ALPN],
            certificate=self._identity.certificate,
            private_key=self._identity.private_key,
            connection_id_length=CONNECTION_ID_BYTES,
            congestion_control_algorithm=settings.congestion_control,
            idle_timeout=settings.idle_timeout_s,
            initial_rtt=LAN_INITIAL_RTT_S if is_lan else INITIAL_RTT_S,
            is_client=is_client,
            max_data=settings.connection_window_bytes,
            max_stream_data=settings.stream_window_bytes,
            max_datagram_size=first_datagram_bytes(path, settings),
            verify_mode=ssl.CERT_NONE,
        )
