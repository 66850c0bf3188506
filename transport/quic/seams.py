"""The inner seams of the QUIC host: what a stream needs of its connection, and it of its host.

With them the three parts are tested one by one, and the codes they send are in one place.
"""

from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Protocol

from protocol.identity import PeerId
from transport.base import PathKind
from transport.paths.path_address import PathAddress
from transport.quic.peer_memory import LinkEstimate
from transport.quic.settings import QuicSettings

if TYPE_CHECKING:
    from transport.quic.connection import QuicConnection
    from transport.quic.stream import QuicStream

__all__ = [
    "CloseCode",
    "ConnectionOwner",
    "ConnectionState",
    "HalfCarrier",
    "HalfLimits",
    "LinkFacts",
    "PathKeeper",
    "ResetCode",
    "StreamCarrier",
]


class ConnectionState(Enum):
    HANDSHAKING = "handshaking"
    OPEN = "open"
    CLOSED = "closed"


class CloseCode(IntEnum):
    """Why a connection was closed: QUIC application error codes (RFC 9000 section 20.2)."""

    GOODBYE = 0
    IDENTITY = 0x201
    TOO_MANY = 0x202
    NOT_NEEDED = 0x203
    TIMED_OUT = 0x204
    SILENT = 0x205
    HOLDS_TOO_MUCH = 0x206
    """Nothing was heard of the peer; should he hear this after all, he need not wait."""


class ResetCode(IntEnum):
    """Why the transport itself gave a stream up; sessions use their own small numbers."""

    HANDLER_FAILED = 0x101
    FRAME_TOO_LARGE = 0x102
    MALFORMED = 0x103
    PROTOCOL_NOT_SUPPORTED = 0x104
    NOT_READ = 0x105
    """The handler returned; nobody will read what else the peer sends."""
    TIMED_OUT = 0x106
    CANCELLED = 0x107
    """Sending was cancelled in the middle of a frame."""


class LinkFacts(Protocol):
    """What streams may know of their connection."""

    @property
    def peer_id(self) -> PeerId: ...
    @property
    def path_kind(self) -> PathKind: ...
    @property
    def is_closed(self) -> bool: ...


class HalfLimits(Protocol):
    """What one direction of a stream must know of its settings."""

    @property
    def frame_bytes_max(self) -> int: ...
    @property
    def unacknowledged_bytes_max(self) -> int: ...
    @property
    def send_slice_bytes(self) -> int: ...


class HalfCarrier(Protocol):
    """What carries one direction of a stream: QUIC, or a TCP connection of its own."""

    @property
    def settings(self) -> HalfLimits: ...

    def unacknowledged_bytes(self, stream_id: int) -> int: ...
    def write(self, stream_id: int, data: bytes, *, is_last: bool = False) -> None: ...
    def consume(self, stream_id: int, count: int) -> None: ...
    def reset_stream(self, stream_id: int, code: int) -> None: ...
    def stop_stream(self, stream_id: int, code: int) -> None: ...
    def wait_for_room(self, stream_id: int) -> None: ...


class StreamCarrier(HalfCarrier, Protocol):
    """The streams of a connection, as one of them sees them. None of these waits or raises."""

    @property
    def peer_id(self) -> PeerId: ...
    @property
    def path_kind(self) -> PathKind: ...
    @property
    def settings(self) -> QuicSettings: ...

    def is_writable(self, stream_id: int) -> bool: ...
    def accept_stream(self, stream: "QuicStream", protocol: str) -> None: ...
    def forget_stream(self, stream_id: int) -> None: ...


class PathKeeper(Protocol):
    """Who chooses a connection's path and judges whether the peer lives. Nothing here raises."""

    def on_heard(self, path: PathAddress, now: float) -> None:
        """A new packet of the peer, decrypted, came by `path`."""

    def on_sent(self, now: float) -> None:
        """Something was sent by the current path."""

    def on_closed(self) -> None:
        """The connection is over."""


class ConnectionOwner(Protocol):
    """A host, as its connections see it."""

    def send(self, datagrams: list[bytes], path: PathAddress) -> None: ...
    def add_route(self, connection_id: bytes, connection: "QuicConnection") -> None: ...
    def remove_route(self, connection_id: bytes) -> None: ...
    def is_served(self, protocol: str) -> bool: ...
    def on_verified(self, connection: "QuicConnection") -> None: ...
    def on_stream(self, stream: "QuicStream", protocol: str) -> None: ...
    def on_closed(self, connection: "QuicConnection") -> None: ...
    def on_held(self, connection: "QuicConnection", held_bytes: int) -> None: ...
    def recall(self, peer_id: PeerId, kind: PathKind) -> LinkEstimate | None: ...
