"""The seam between sessions and networks: Host, Connection, Stream.

Nothing here knows aioquic, sockets or NATs, so another engine can take its place. A stream carries
whole frames (length-prefixed on the wire), in order; its `path_kind` says how they travel.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from protocol.identity import PeerId
from transport.address import AnyAddress

__all__ = ["Connection", "Host", "PathKind", "Stream", "StreamHandler", "StreamStatistics"]


class PathKind(StrEnum):
    """How a connection's datagrams travel now."""

    LAN = "lan"
    DIRECT = "direct"
    PUNCHED = "punched"
    RELAYED = "relayed"


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """Bytes include frame lengths; `unacknowledged_bytes` is what back-pressure looks at."""

    frames_sent: int
    frames_received: int
    bytes_sent: int
    bytes_received: int
    unacknowledged_bytes: int


class Stream(ABC):
    """One ordered, reliable, bidirectional sequence of frames to an authenticated peer."""

    @property
    @abstractmethod
    def peer_id(self) -> PeerId: ...

    @property
    @abstractmethod
    def path_kind(self) -> PathKind: ...

    @abstractmethod
    async def send(self, *parts: bytes) -> None:
        """Send the concatenation of `parts` as one frame.

        Returns once the frame is queued and less than the send limit is unacknowledged; so a slow
        reader slows its writer. Raises PeerGone or StreamReset. Safe for one sender at a time.
        """

    @abstractmethod
    async def receive(self) -> bytes | None:
        """The next whole frame; None when the peer has finished.

        Raises PeerGone, StreamReset, or FrameTooLarge. Has no timeout of its own: the session
        knows how long it may wait.
        """

    @abstractmethod
    def finish(self) -> None:
        """Say that no more frames follow; receiving goes on."""

    @abstractmethod
    def reset(self, code: int) -> None:
        """Give the stream up in both directions; the peer sees StreamReset(code)."""

    @abstractmethod
    def statistics(self) -> StreamStatistics: ...


StreamHandler = Callable[[Stream], Awaitable[None]]
"""Runs in a task of the host; when it returns or raises, the stream is closed."""


class Connection(ABC):
    """An authenticated link to one peer, carrying many streams."""

    @property
    @abstractmethod
    def peer_id(self) -> PeerId: ...

    @property
    @abstractmethod
    def path_kind(self) -> PathKind: ...

    @property
    @abstractmethod
    def remote(self) -> str:
        """Where the peer is, as text for tables and logs."""

    @abstractmethod
    async def open_stream(self, protocol: str) -> Stream:
        """A new stream speaking `protocol`, for example `/piecework/session/1`."""

    @abstractmethod
    async def close(self) -> None: ...


class Host(ABC):
    """This node on the network: listens, dials, and hands incoming streams to handlers."""

    @property
    @abstractmethod
    def peer_id(self) -> PeerId: ...

    @property
    @abstractmethod
    def addresses(self) -> tuple[AnyAddress, ...]:
        """Where others can try to reach us, best first."""

    @abstractmethod
    def set_handler(self, protocol: str, handler: StreamHandler | None) -> None:
        """Serve `protocol` with `handler`, or stop serving it with None."""

    @abstractmethod
    async def connect(
        self, peer_id: PeerId, addresses: Sequence[AnyAddress], *, timeout_s: float
    ) -> Connection:
        """The living connection to that peer, or a new one. Raises DialFailed."""

    @abstractmethod
    def connections(self) -> tuple[Connection, ...]: ...

    @abstractmethod
    async def close(self) -> None:
        """Close every connection (peers see it at once) and the socket."""
