"""aioquic 1.7.2 with the doors we need: every use of its private fields is in this file.

aioquic is pinned exactly; tests/transport/test_quic_private.py shows that each field behaves as
believed here, so an upgrade that moves one is noticed. No I/O, no clock.
"""

from collections.abc import Sequence
from typing import Final

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import Limit, QuicConnection, QuicConnectionState
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicFrameType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketPacer, QuicPacketSpace
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch
from cryptography.x509 import Certificate

__all__ = ["QuicCore"]

_FRAME_BYTES_MAX: Final = 17
"""A limit frame: its type and two varints of at most 8 bytes."""


class QuicCore(QuicConnection):
    """One sans-IO QUIC connection: mutual TLS, and flow control that waits for the reader.

    Stock aioquic doubles each receive window when half of it has *arrived*, so a peer could fill
    the memory of a slow reader. Here a window moves only by `consume`.
    """

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        streams_max: int,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        _set_limit(self._local_max_streams_bidi, streams_max)
        # Nothing of ours uses one-way streams.
        _set_limit(self._local_max_streams_uni, 0)
        self._window_step = configuration.max_data // 8
        self._stream_window_step = configuration.max_stream_data // 8

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        if not self._is_client:
            self.tls._request_client_certificate = True

    # Identity and state

    @property
    def is_client(self) -> bool:
        return self._is_client

    @property
    def peer_certificates(self) -> Sequence[Certificate]:
        """What the peer showed, leaf first; empty if it showed none."""
        leaf = self.tls._peer_certificate
        return () if leaf is None else (leaf, *self.tls._peer_certificate_chain)

    @property
    def has_begun(self) -> bool:
        """Whether one packet of the peer was decrypted (always true for a client)."""
        return self._is_client or self._state != QuicConnectionState.FIRSTFLIGHT

    @property
    def ended(self) -> ConnectionTerminated | None:
        """Why the connection is over, known at once; aioquic's own event comes 3 PTO later."""
        return self._close_event

    @property
    def newest_packet(self) -> int:
        """The highest packet number that was decrypted in the 1-RTT space, or -1.

        Only a packet that raises it may move the path (RFC 9000 section 9.3).
        """
        space = self._spaces.get(Epoch.ONE_RTT)
        return -1 if space is None else space.largest_received_packet

    @property
    def round_trip_s(self) -> float:
        """RFC 9002 section 5.3: smoothed_rtt; 0 before the first sample."""
        return self._loss._rtt_smoothed

    # Streams

    def unacknowledged_bytes(self, stream_id: int) -> int:
        """Bytes written to the stream that the peer has not acknowledged."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.sender._buffer_stop - stream.sender._buffer_start

    def is_writable(self, stream_id: int) -> bool:
        """Whether `send_stream_data` would be accepted: not finished, not reset or stopped."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return not self._stream_is_discarded(stream_id)
        return stream.sender._buffer_fin is None and stream.sender._reset_error_code is None

    def arrived_bytes(self, stream_id: int) -> int:
        """The highest offset the peer has used on the stream (0 when it is forgotten)."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.receiver.highest_offset

    def is_known(self, stream_id: int) -> bool:
        return stream_id in self._streams

    def consume(self, stream_id: int, count: int) -> bool:
        """The reader took `count` bytes: let the peer send as many more.

        True if that is worth telling the peer now.
        """
        self._local_max_data.value += count
        is_due = self._local_max_data.value - self._local_max_data.sent >= self._window_step
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.receiver.is_finished:
            stream.max_stream_data_local += count
            unsent = stream.max_stream_data_local - stream.max_stream_data_local_sent
            is_due = is_due or unsent >= self._stream_window_step
        return is_due

    # Flow control: these two replace aioquic's doubling (RFC 9000 sections 19.9 to 19.11)

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        unsent = stream.max_stream_data_local - stream.max_stream_data_local_sent
        if unsent < self._stream_window_step or stream.receiver.is_finished:
            return
        buffer = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=_FRAME_BYTES_MAX,
            handler=self._on_max_stream_data_delivery,
            handler_args=(stream,),
        )
        assert stream.stream_id is not None, "only crypto streams have no id"
        buffer.push_uint_var(stream.stream_id)
        buffer.push_uint_var(stream.max_stream_data_local)
        stream.max_stream_data_local_sent = stream.max_stream_data_local

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        data, streams = self._local_max_data, self._local_max_streams_bidi
        if data.value - data.sent >= self._window_step:
            self._write_limit(builder, data)
        # Batched: told when the peer could open fewer streams than the news would grant.
        if streams.value - streams.sent > streams.sent - streams.used:
            self._write_limit(builder, streams)

    def _write_limit(self, builder: QuicPacketBuilder, limit: Limit) -> None:
        buffer = builder.start_frame(
            limit.frame_type,
            capacity=_FRAME_BYTES_MAX,
            handler=self._on_connection_limit_delivery,
            handler_args=(limit,),
        )
        buffer.push_uint_var(limit.value)
        limit.sent = limit.value

    # Congestion and pacing

    def relax_for_lan(self, window_datagrams: int) -> None:
        """Begin with a large window and never pace: right on a LAN, a queue on a home uplink."""
        size = self._max_datagram_size
        self._loss._cc.congestion_window = window_datagrams * size
        self._loss._pacer = _Unpaced(max_datagram_size=size)


class _Unpaced(QuicPacketPacer):
    """Sends as soon as the congestion window allows. A controller's own pacer would go here."""

    def next_send_time(self, now: float) -> None:  # type: ignore[override]
        return None

    def update_after_send(self, now: float) -> None:
        pass

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        pass


def _set_limit(limit: Limit, value: int) -> None:
    limit.value = limit.sent = value
