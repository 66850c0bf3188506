"""Every number of the LAN's fast streams: its unit, its reason, and what it bounds."""

import socket
from dataclasses import dataclass
from typing import Final

from protocol.limits import FRAME_BYTES_MAX

__all__ = ["LanSettings", "StreamLimits", "prepare_socket"]

_KIB: Final = 1024
_MIB: Final = 1024 * 1024

SEND_BUFFER_BYTES: Final = 256 * _KIB
"""In the kernel, for one stream: twice what 1 Gbit/s carries in 1 ms. Beyond it waits where we
count it; left alone the kernel would take 4 MiB from a writer whose reader sleeps."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What one stream may send, accept and hold back."""

    frame_bytes_max: int = FRAME_BYTES_MAX
    """The largest frame that is sent or accepted."""

    unacknowledged_bytes_max: int = 768 * _KIB
    """Above this `send` waits. It may lie twice in this process (sealed, and handed to the
    socket), and as much again in the kernel's buffers: about 2 MiB in all, as over QUIC."""

    send_slice_bytes: int = 256 * _KIB
    """How much of a large frame is queued at a time, so the bound above holds for it too."""

    read_ahead_bytes: int = _MIB
    """Unread whole frames above this stop the reading; a frame that has begun is read on."""


@dataclass(frozen=True, slots=True)
class LanSettings:
    """How one host's fast path behaves; the defaults are for a home machine."""

    stream: StreamLimits = StreamLimits()

    connect_timeout_s: float = 1.0
    """A LAN answers within some ms; a firewall that drops answers never."""

    handshake_timeout_s: float = 3.0
    """For TLS; about 1 ms of CPU on each side."""

    opening_timeout_s: float = 3.0
    """For the ticket, and for the answer to it."""

    shutdown_timeout_s: float = 2.0
    """For TLS's goodbye after everything has arrived."""

    linger_s: float = 3.0
    """How long a stream that was reset goes on reading, so the peer's writes find an end."""

    ticket_lifetime_s: float = 60.0
    """One lies ready per peer; after this it is void and another is asked for, 1 ms over QUIC."""

    tickets_per_peer_max: int = 8
    """Outstanding at once; a further one makes the oldest void. A dialler uses at most five."""

    opens_max: int = 4
    """Streams to one peer that are being opened at once; others wait their turn."""

    streams_max: int = 128
    """Streams with one peer at once, each way; beyond it streams go over QUIC."""

    sessions_per_peer_max: int = 4
    """Control streams of one peer: as many as it may have connections."""

    incoming_max: int = 1024
    """Streams that others have opened to us, all together; each costs 300 KB for TLS."""

    half_open_max: int = 64
    """Connections that have shown no ticket yet; a further one is closed. Each costs 300 KB."""

    half_open_per_host_max: int = 16
    """The same from one address, so that one machine cannot keep the others out."""

    hosts_max: int = 16
    """Addresses that one offer may name."""

    retry_after_s: float = 300.0
    """A peer without a fast path is asked again this much later, in the background."""

    measure_timeout_s: float = 2.0
    """For all echoes over one carrier; what does not answer by then is the slower one."""

    echo_count: int = 5
    """Echoes over each carrier; the quickest counts, because noise only ever adds."""

    verdicts_max: int = 256
    """Peers whose measurement is kept; the oldest is forgotten first."""


_DEAD_AFTER_S: Final = 20
"""Data unacknowledged, or questions unanswered, for that long end the connection: a firewall may
swallow TCP while QUIC lives. As long as QUIC's own idle timeout."""

_KEEPALIVE: Final = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 2))


def prepare_socket(opened: socket.socket) -> None:
    """Before it connects, or right after it was accepted."""
    opened.setblocking(False)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (*_KEEPALIVE, ("TCP_USER_TIMEOUT", 1000 * _DEAD_AFTER_S)):
        if (option := getattr(socket, name, None)) is not None:  # not every system has them all
            opened.setsockopt(socket.IPPROTO_TCP, option, value)
