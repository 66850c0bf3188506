"""The seam of the control plane: byte streams to peers and relays over TCP, authenticated.

It carries identify, reservations, punch signalling, and the bytes of those whose UDP is blocked;
never activations where UDP works. Nothing here knows libp2p, trio or threads; everything is called
and calls back in the owner's asyncio loop. `ControlHost` is implemented by `control.LibP2pHost`,
and by `testing.FakeControl` in memory.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from protocol.identity import PeerId
from transport.address import AnyAddress, CircuitAddress, TcpAddress

__all__ = ["ControlConnection", "ControlHandler", "ControlHost", "ControlStream", "Reservation"]


class ControlStream(ABC):
    """One ordered byte stream; one reader and one writer at a time."""

    @property
    @abstractmethod
    def peer_id(self) -> PeerId:
        """Proved by Noise, end to end, also over a relay."""

    @property
    @abstractmethod
    def is_relayed(self) -> bool: ...

    @property
    @abstractmethod
    def remote(self) -> str:
        """`host:port` of the other end, or of the relay between, for limits and logs."""

    @abstractmethod
    async def read(self, bytes_max: int) -> bytes:
        """Between 1 and `bytes_max` bytes; b"" at the end. Cancelled, it loses nothing.

        Raises PeerGone or StreamReset; and ProtocolNotSupported, on a stream that we opened, if
        the peer does not agree to its protocol.
        """

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Returns when the muxer has taken it: waits for the peer's window. Raises PeerGone."""

    @abstractmethod
    async def finish(self) -> None:
        """Say that no more follows from us; reading goes on. Idempotent, raises nothing."""

    @abstractmethod
    async def close(self) -> None:
        """Say that no more follows, both ways; idempotent, raises nothing."""

    @abstractmethod
    async def reset(self) -> None:
        """Give the stream up; idempotent, raises nothing."""


ControlHandler = Callable[[ControlStream], Awaitable[None]]
"""Runs in a task of the host; when it returns the stream is closed, when it raises reset."""


class ControlConnection(ABC):
    """An authenticated connection to one peer, direct or through a relay."""

    @property
    @abstractmethod
    def peer_id(self) -> PeerId: ...

    @property
    @abstractmethod
    def is_relayed(self) -> bool: ...

    @property
    @abstractmethod
    def remote(self) -> str: ...

    @property
    @abstractmethod
    def is_closed(self) -> bool: ...

    @abstractmethod
    async def open_stream(self, protocol: str, *, timeout_s: float) -> ControlStream:
        """Returns when the protocol is proposed, without waiting for the peer: what is written
        follows at once, and whether he agrees shows when the stream is read. Raises PeerGone, or
        TimedOut where even the proposal could not be sent."""

    @abstractmethod
    async def wait_closed(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Reservation:
    """A slot at a relay (circuit relay v2, RESERVE)."""

    relay: TcpAddress
    address: CircuitAddress
    """Under which others reach us."""
    expires_at_s: int
    """Unix seconds; renew before."""
    circuit_bytes_max: int
    """What one circuit may carry, each way; 0 is no limit."""
    circuit_duration_s: int
    """How long one circuit may live; 0 is no limit."""


class ControlHost(ABC):
    """This node's control plane. One per program, made by its composition root."""

    @property
    @abstractmethod
    def peer_id(self) -> PeerId: ...

    @property
    @abstractmethod
    def addresses(self) -> tuple[TcpAddress, ...]:
        """Where it listens; real addresses, never 0.0.0.0. Empty when it does not listen."""

    @abstractmethod
    def set_handler(self, protocol: str, handler: ControlHandler | None) -> None: ...

    @abstractmethod
    async def connect(self, address: AnyAddress, *, timeout_s: float) -> ControlConnection:
        """The living connection of that kind (direct, or through that relay), or a new one.

        A CircuitAddress goes through its relay. Raises DialFailed, with the relay's own reason
        where it gave one, and RemoteProtocolError for an Address, which is none of the control
        plane's. Concurrent calls for one address share a dial.
        """

    @abstractmethod
    def connections(self) -> tuple[ControlConnection, ...]: ...

    @abstractmethod
    async def reserve(self, relay: TcpAddress, *, timeout_s: float) -> Reservation:
        """A new or renewed slot at `relay`. Raises DialFailed, or RelayRefused with the status."""

    @abstractmethod
    async def close(self) -> None: ...
