"""aioquic 1.7.2 with the doors we need: its private fields are used here, and in the two files
`private_arrived` and `private_recovery`, alone. Each has a test that shows it to behave
as believed, so an upgrade of the exact pin that moves one is noticed. No I/O, no clock.
"""

import logging
from collections.abc import Sequence
from math import inf
from typing import Final

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import Limit, NetworkAddress, QuicConnectionState
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicFrameType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch
from cryptography.x509 import Certificate

from transport.congestion.pacing import Pacer
from transport.congestion.plugin import HomeCongestionControl
from transport.congestion.share import UploadShare
from transport.quic.private_arrived import BoundedReceipt
from transport.quic.private_recovery import Recovery
from transport.quic.settings import (
    ACK_DELAY_S,
    DATAGRAM_BYTES_MAX,
    DATAGRAM_BYTES_MIN,
    INITIAL_RTT_S,
    LAN_ACK_DELAY_S,
    LAN_INITIAL_RTT_S,
    LAN_WINDOW_DATAGRAMS,
)

__all__ = ["QuicCore"]

_FRAME_BYTES_MAX: Final = 17
"""A limit frame: its type and two varints of at most 8 bytes."""

_BANDWIDTH_MAX: Final = 1.25e9
"""Bytes a second; 10 Gbit/s."""
_RTT_MAX_S: Final = 10.0
"""What a seed may say: beyond these a remembered estimate has gone wrong."""

# aioquic warns of what strangers do, a line a packet: for those who ask, not for every disk.
_aioquic_log = logging.getLogger("quic")
_aioquic_log.setLevel(_aioquic_log.level or logging.ERROR)


class QuicCore(BoundedReceipt):
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
        upload: UploadShare | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        _set_limit(self._local_max_streams_bidi, streams_max)
        # Nothing of ours uses one-way streams.
        _set_limit(self._local_max_streams_uni, 0)
        self._window_bytes = configuration.max_data
        self._window_step = configuration.max_data // 8
        self._stream_window_step = configuration.max_stream_data // 8
        self._loss: Recovery = Recovery(
            congestion_control_algorithm=configuration.congestion_control_algorithm,
            initial_rtt=configuration.initial_rtt,
            max_datagram_size=self._max_datagram_size,
            peer_completed_address_validation=not self._is_client,
            quic_logger=self._quic_logger,
            send_probe=self._send_probe,
            logger=self._logger,
        )
        self._ack_delay = ACK_DELAY_S
        self._control: HomeCongestionControl | None = None
        """None under a stock controller, which then keeps its own pacer (for comparison)."""
        if isinstance(self._loss._cc, HomeCongestionControl):
            self._control = self._loss._cc
            self._pacer = Pacer(self._control, datagram_bytes=self._max_datagram_size, share=upload)
            self._loss._pacer = self._pacer  # type: ignore[assignment]  # has the same methods

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

    def postpone_idle_timeout(self, now: float) -> None:
        """This process was asleep: what it did not hear meanwhile was not silence."""
        if self._close_at is not None and self._close_event is None:
            self._close_at = now + self._idle_timeout()

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

    @property
    def probe_timeout_count(self) -> int:
        """RFC 9002 section 6.2: whole flights that went unanswered, since the start."""
        return self._loss.probe_timeout_count

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

    @property
    def held_bytes(self) -> int:
        """What the peer has sent, or left room for, and nobody has taken yet."""
        return self._local_max_data.used - (self._local_max_data.value - self._window_bytes)

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

    # Congestion, pacing and the path

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        control = self._control
        if control is None:
            return super().datagrams_to_send(now)
        control.open_window()
        in_flight = control.bytes_in_flight
        datagrams = super().datagrams_to_send(now)
        if datagrams:
            self._pacer.settle(now, control.bytes_in_flight - in_flight)
        if self._pacing_at is None and control.has_room:
            control.mark_app_limited()
        return datagrams

    def relax_for_lan(self) -> None:
        """Begin with a large window and never pace: right on a LAN, a queue on a home uplink."""
        self._ack_delay = LAN_ACK_DELAY_S
        if self._control is None:
            self._loss._cc.congestion_window = LAN_WINDOW_DATAGRAMS * self._max_datagram_size
        else:
            self._control.relax_for_lan(LAN_WINDOW_DATAGRAMS)
            self._pacer.refresh()

    def seed(self, bandwidth_bytes_s: float, min_rtt_s: float) -> None:
        """What the path to this peer once carried; to be told before anything is sent.

        Raises ValueError for what no path can be.
        """
        if not (0 < bandwidth_bytes_s < _BANDWIDTH_MAX and 0 < min_rtt_s < _RTT_MAX_S):
            raise ValueError(
                f"A path has a bandwidth and a round trip, "
                f"not {bandwidth_bytes_s} bytes/s and {min_rtt_s} s."
            )
        if self._control is not None:
            self._control.seed(bandwidth_bytes_s, min_rtt_s)
            self._pacer.refresh()

    def link_estimate(self) -> tuple[float | None, float]:
        """Bandwidth (bytes/s; None while only the sender has limited it), shortest round trip (s;
        0 before the first sample)."""
        if self._control is None:
            return None, self._loss._rtt_min if self._loss._rtt_initialized else 0.0
        min_rtt = self._control.min_rtt_s
        return self._control.bandwidth_bytes_s, min_rtt if min_rtt < inf else 0.0

    def change_path(
        self, *, is_lan: bool, datagram_bytes: int, keep_estimates: bool, now: float
    ) -> None:
        """The connection goes another way from now on.

        `keep_estimates` where it is the same line (a NAT gave us another port); otherwise
        bandwidth, round trip and window begin anew. Packets under way tell nothing about the new
        path, neither by their acknowledgement nor by their loss.
        """
        self.set_datagram_bytes(datagram_bytes)
        if not keep_estimates:
            self._loss.forget_rtt(LAN_INITIAL_RTT_S if is_lan else INITIAL_RTT_S, now)
        self._ack_delay = LAN_ACK_DELAY_S if is_lan else ACK_DELAY_S
        if self._control is not None:
            self._control.change_path(now, keep_estimates=keep_estimates)
            if is_lan:
                self._control.relax_for_lan(LAN_WINDOW_DATAGRAMS)
            self._pacer.refresh()

    def set_datagram_bytes(self, datagram_bytes: int) -> None:
        """UDP payload of the packets built from now on: what the path was proved to carry."""
        if not DATAGRAM_BYTES_MIN <= datagram_bytes <= DATAGRAM_BYTES_MAX:
            raise ValueError(f"A datagram has 1200 to 8900 bytes, not {datagram_bytes}.")
        self._max_datagram_size = datagram_bytes
        if self._control is not None:
            self._control.set_datagram_bytes(datagram_bytes)
            self._pacer.set_datagram_bytes(datagram_bytes)


def _set_limit(limit: Limit, value: int) -> None:
    limit.value = limit.sent = value
