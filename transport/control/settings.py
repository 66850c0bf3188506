"""Every number of the control plane: its unit, its reason, and what it bounds."""

from dataclasses import dataclass
from typing import Final

__all__ = ["INITIAL_WINDOW_BYTES", "ControlSettings"]

_KIB: Final = 1024
_MIB: Final = 1024 * 1024

INITIAL_WINDOW_BYTES: Final = 256 * _KIB
"""What yamux lets every new stream send before it hears anything (yamux spec, "Flow Control")."""


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """How one host behaves; the defaults are for a home machine and for a relay."""

    connections_max: int = 1024
    """Living connections; a further incoming one is closed. About 60 KB each when idle."""

    connections_per_peer_max: int = 4
    """A further one closes that peer's oldest of its kind: a restarted peer leaves dead ones."""

    half_open_max: int = 64
    """Incoming handshakes under way; a further one ends the oldest. Each costs 5 ms of CPU, so
    an honest one is through long before it is the oldest, unless a flood takes the whole core."""

    handshake_timeout_s: float = 10.0
    """TCP to ready muxer, either way."""

    handshake_bytes_max: int = 64 * _KIB
    """What a stranger may send until the muxer is ready; an honest handshake is under 2 KiB."""

    negotiation_timeout_s: float = 10.0
    """An incoming stream that has not named its protocol by then is reset."""

    streams_max: int = 256
    """Open streams of one connection, both ways; a further incoming one is reset."""

    handlers_max: int = 4096
    """Incoming streams served at once by the host; a further one is reset."""

    wide_streams_max: int = 64
    """As long as a connection has no more streams than this, each gets the wide window."""

    wide_window_bytes: int = 512 * _KIB
    """What a stream may hold unread: the bandwidth-delay product of 40 Mbit/s at 100 ms."""

    receive_bytes_max: int = 512 * _MIB
    """What all connections may hold unread together; the one that passes it is closed."""

    read_bytes_max: int = 64 * _KIB
    """One crossing from the muxer's thread into ours."""

    control_frames_max: int = 4096
    """Unsent acknowledgements and window updates of a connection, 12 bytes each: a peer that
    makes us answer and does not read is closed."""

    keepalive_s: float = 5.0
    """A ping after so long without a byte: holds NAT mappings, finds the dead."""

    idle_timeout_s: float = 12.0
    """Nothing heard for so long means that the peer is gone: two pings and more went unanswered, by
    seconds more than a home line's queue delays. Sooner than on the data socket, for who is called
    by a dead connection cannot be reached at all; a new one costs two round trips."""

    answer_timeout_s: float = 3.0
    """After a stream was opened: a peer of whom nothing at all is heard for so long, not even the
    answer to a ping, is gone. More than a home line's queue, less than what callers wait."""

    linger_s: float = 10.0
    """How long what a peer still sends on a stream that we have closed is thrown away, before
    the stream is reset."""

    close_timeout_s: float = 1.0
    """A goodbye that cannot be sent by then is left unsaid."""

    dial_timeout_s: float = 15.0
    """One dial that callers share, whatever their own patience."""

    def __post_init__(self) -> None:
        if self.wide_window_bytes < INITIAL_WINDOW_BYTES:
            raise ValueError("The wide window must not be below yamux's initial one.")
        if self.idle_timeout_s <= self.keepalive_s:
            raise ValueError("A peer must be able to answer a ping before it counts as gone.")

    @property
    def connection_receive_bytes_max(self) -> int:
        """The most that a peer who keeps to its windows can make one connection hold."""
        wide = min(self.wide_streams_max, self.streams_max)
        return wide * self.wide_window_bytes + (self.streams_max - wide) * INITIAL_WINDOW_BYTES
