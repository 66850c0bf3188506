"""Every number of the data socket: its unit, its owner's reason, and what it bounds."""

from dataclasses import dataclass
from typing import Final

from protocol.limits import FRAME_BYTES_MAX
from transport.congestion.share import UploadShare

__all__ = [
    "ACK_DELAY_S",
    "ALPN",
    "CONNECTION_ID_BYTES",
    "DATAGRAM_BYTES_MAX",
    "DATAGRAM_BYTES_MIN",
    "INITIAL_RTT_S",
    "LAN_ACK_DELAY_S",
    "LAN_INITIAL_RTT_S",
    "LAN_WINDOW_DATAGRAMS",
    "QuicSettings",
]

ALPN: Final = "libp2p"
"""libp2p specs, tls/tls.md: keeps the wire open to other implementations."""

CONNECTION_ID_BYTES: Final = 8
"""Of the ids we choose; all the same, so a short header can be routed without its connection."""

DATAGRAM_BYTES_MIN: Final = 1200
"""RFC 9000 section 14: every path must carry this much UDP payload."""

DATAGRAM_BYTES_MAX: Final = 8900
"""A jumbo frame; aioquic writes lengths as two-byte varints and breaks above 16 383."""

INITIAL_RTT_S: Final = 0.1
"""The guess before the first sample, on any path but a LAN."""

LAN_INITIAL_RTT_S: Final = 0.01
"""The same on a LAN: a lost first packet is retried after 20 ms, not 200."""

LAN_WINDOW_DATAGRAMS: Final = 200
"""Unpaced first burst on a LAN, 240 KB at 1200 B. On a home uplink it would be a queue."""

ACK_DELAY_S: Final = 0.005
"""How long an acknowledgement may wait for more: against 1 ms it saves the sender a fifth of its
CPU and costs a point of rate at most. 25 ms, which RFC 9000 allows, starve paths of short RTT."""

LAN_ACK_DELAY_S: Final = 0.001
"""The same on a LAN, where the window is small against the rate."""

_KIB: Final = 1024
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class QuicSettings:
    """How one host behaves; the defaults are for a home machine."""

    datagram_bytes: int = DATAGRAM_BYTES_MIN
    """UDP payload on every path but loopback. More needs a path check (PPPoE, VPN, IPv6)."""

    loopback_datagram_bytes: int = DATAGRAM_BYTES_MAX
    """UDP payload on loopback, whose MTU of 65 536 is known without asking."""

    keepalive_s: float = 5.0
    """A ping after this long without a datagram received: holds NAT mappings, finds the dead."""

    busy_silence_s: float = 1.5
    """The same while streams are open: somebody waits for this peer. Above every round trip."""

    ping_interval_s: float = 1.0
    """Between the pings to a peer that does not answer."""

    unanswered_pings_max: int = 3
    """Fewer prove nothing on a lossy line: at 20 % loss three get lost once in 100 times."""

    ping_answer_s: float = 0.5
    """What the last ping before the verdict is given: above the round trip of every home line."""

    silence_max_s: float = 5.0
    """A peer silent for this long that left pings unanswered is gone (time asleep not counted)."""

    idle_timeout_s: float = 20.0
    """QUIC's own limit, behind the above; the smaller of both sides' counts."""

    handshake_timeout_s: float = 10.0
    """A connection that has not proved who it is by then is dropped."""

    negotiation_timeout_s: float = 10.0
    """An incoming stream that has not named its protocol by then is reset."""

    frame_bytes_max: int = FRAME_BYTES_MAX
    """The largest frame that is sent or accepted."""

    stream_window_bytes: int = FRAME_BYTES_MAX + 64 * _KIB
    """What a stream may hold unread; the largest frame must fit whole, or it never ends."""

    connection_window_bytes: int = 64 * _MIB
    """What all streams of a connection may hold unread together: the memory a peer can pin."""

    unacknowledged_bytes_max: int = 2 * _MIB
    """Above this `send` waits: twice the bandwidth-delay product of 100 Mbit/s at 80 ms."""

    send_slice_bytes: int = 256 * _KIB
    """How much of a large frame is queued at a time, so the bound above holds for it too."""

    streams_max: int = 128
    """Streams a peer may have open at once on one connection (and we on ours)."""

    connections_max: int = 1024
    """Living connections; a further Initial is dropped. About 120 KB each when idle."""

    connections_per_peer_max: int = 4
    """A further one closes that peer's oldest: a restarted peer leaves dead ones behind."""

    half_open_max: int = 256
    """Incoming handshakes under way; a further Initial is dropped. Each costs about 5 ms of CPU."""

    half_open_free_max: int = 32
    """Above this many, a dialler must first prove its address (Retry, RFC 9000 section 8.1.2)."""

    dial_addresses_max: int = 16
    """Addresses of one peer that are tried; more is a record gone wrong."""

    dial_stagger_s: float = 0.05
    """The next address is tried this long after the last, LAN addresses first."""

    receive_batch_max: int = 64
    """Datagrams read before the connections they touched are served."""

    socket_buffer_bytes: int = 8 * _MIB
    """Kernel buffers each way: a burst must survive one slow turn of the event loop."""

    congestion_control: str = "home"
    """Ours (`transport.congestion`), or one of aioquic's, "reno" or "cubic", to compare with."""

    upload: UploadShare | None = None
    """What all connections may send together on paced paths; None: no limit but the paths' own."""

    def __post_init__(self) -> None:
        for size in (self.datagram_bytes, self.loopback_datagram_bytes):
            if not DATAGRAM_BYTES_MIN <= size <= DATAGRAM_BYTES_MAX:
                raise ValueError(f"A datagram has 1200 to 8900 bytes, not {size}.")
        if self.stream_window_bytes < self.frame_bytes_max + _KIB:
            raise ValueError("The stream window must hold one frame and its prefix.")
        if self.connection_window_bytes < self.stream_window_bytes:
            raise ValueError("The connection window must hold one stream window.")
