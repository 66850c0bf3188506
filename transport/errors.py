"""The transport's branch of the error tree.

TransportError
├─ DialFailed(peer, attempts)     no address answered; each attempt says why
├─ IdentityMismatch               the certificate proves another PeerId than was dialled
├─ PeerGone                       the connection closed or fell silent
├─ RelayRefused(status)           the relay said no; the status is circuit relay v2's
├─ StreamReset(code)              the peer gave this stream up
├─ FrameTooLarge                  a frame above the stream's limit; the stream is reset
├─ ProtocolNotSupported           the peer does not speak this protocol
└─ TimedOut                       a named wait ran out
"""

from dataclasses import dataclass

from protocol.errors import PieceworkError

__all__ = [
    "Attempt",
    "DialFailed",
    "FrameTooLarge",
    "IdentityMismatch",
    "PeerGone",
    "ProtocolNotSupported",
    "RelayRefused",
    "StreamReset",
    "TimedOut",
    "TransportError",
]


class TransportError(PieceworkError):
    """A peer could not be reached, or a stream to it did not hold."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One address that was dialled, and what came of it."""

    address: str
    reason: str
    elapsed_s: float


class DialFailed(TransportError):
    """No address of the peer answered."""

    def __init__(self, peer: str, attempts: tuple[Attempt, ...]) -> None:
        tried = "; ".join(f"{a.address}: {a.reason} after {a.elapsed_s:.1f} s" for a in attempts)
        super().__init__(f"could not reach {peer} ({tried or 'no address known'})")
        self.peer = peer
        self.attempts = attempts


class IdentityMismatch(TransportError):
    """The peer's certificate is invalid or proves another PeerId."""


class PeerGone(TransportError):
    """The connection closed, or nothing was heard for the idle timeout."""


class RelayRefused(TransportError):
    """The relay gave no reservation or no circuit; `status` is the code of circuit relay v2."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class StreamReset(TransportError):
    """The peer reset the stream."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class FrameTooLarge(TransportError):
    """The peer announced a frame above the limit; nothing of it was buffered."""


class ProtocolNotSupported(TransportError):
    """The peer answered `na` to the protocol that was asked for."""


class TimedOut(TransportError):
    """A named wait ran out."""
