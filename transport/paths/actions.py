"""What a path manager asks of whoever drives it, and what it tells of an answer."""

from dataclasses import dataclass

from transport.base import PathKind
from transport.paths.path_address import PathAddress

__all__ = [
    "Action",
    "Answered",
    "PathDoubted",
    "PeerDead",
    "SendProbe",
    "UsePath",
    "WantSignal",
]


@dataclass(frozen=True, slots=True)
class SendProbe:
    """A PROBE or PROBED to send."""

    path: PathAddress
    datagram: bytes


@dataclass(frozen=True, slots=True)
class UsePath:
    """Send by this path from now on."""

    path: PathAddress
    kind: PathKind
    is_forced: bool
    """The path before it is lost; otherwise this one is only better."""
    is_same_line: bool = False
    """The peer is behind another address of the same NAT: rate and round trip stay as they were."""


@dataclass(frozen=True, slots=True)
class WantSignal:
    """Exchange candidates and punch again."""

    reason: str


@dataclass(frozen=True, slots=True)
class PeerDead:
    """The last action there is."""

    reason: str


@dataclass(frozen=True, slots=True)
class PathDoubted:
    """The path in use is doubted: see to it that the others work, circuits above all."""


Action = SendProbe | UsePath | WantSignal | PathDoubted | PeerDead


@dataclass(frozen=True, slots=True)
class Answered:
    """A probe of `size` bytes was answered by the path it went."""

    path: PathAddress
    kind: PathKind
    size: int
    rtt_s: float
