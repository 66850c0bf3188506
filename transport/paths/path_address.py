"""Where a datagram goes or came from: directly, through a relay's forwarder, or through a tunnel.

SocketAddress                 a UDP address: LAN, direct or punched
CircuitPath(relay, circuit)   wrapped as FORWARDED to a relay, which passes it to the other side
TunnelPath(number)            length-prefixed in a byte stream of the control plane: UDP is blocked

QUIC is shown none of them: it sees one constant virtual address, and the path moves beneath it.
"""

import hashlib
import ipaddress
from dataclasses import dataclass

from transport.base import PathKind
from transport.interfaces import is_loopback, path_kind_of
from transport.quic.settings import DATAGRAM_BYTES_MAX, QuicSettings
from transport.udp.udp_socket import SocketAddress

__all__ = [
    "CircuitPath",
    "PathAddress",
    "TunnelPath",
    "address_kind",
    "first_datagram_bytes",
    "is_direct",
    "path_text",
    "token_address",
]


@dataclass(frozen=True, slots=True)
class CircuitPath:
    """One side of a circuit (8 bytes) at the UDP forwarder of `relay`."""

    relay: SocketAddress
    circuit: bytes


@dataclass(frozen=True, slots=True)
class TunnelPath:
    """A byte stream that somebody registered with the endpoint; `number` is his to choose."""

    number: int


PathAddress = SocketAddress | CircuitPath | TunnelPath


def is_direct(path: PathAddress) -> bool:
    """Whether nobody of ours stands between."""
    return isinstance(path, tuple)


def address_kind(path: PathAddress) -> PathKind:
    """What the address alone says; that a path was punched is known to whoever punched it."""
    return path_kind_of(path[0]) if isinstance(path, tuple) else PathKind.RELAYED


def first_datagram_bytes(path: PathAddress, settings: QuicSettings) -> int:
    """UDP payload with which QUIC may begin there: more needs a search (`mtu`)."""
    if isinstance(path, TunnelPath):
        return DATAGRAM_BYTES_MAX  # a byte stream has no MTU
    if isinstance(path, tuple) and is_loopback(path[0]):
        return settings.loopback_datagram_bytes
    return settings.datagram_bytes


def path_text(path: PathAddress) -> str:
    """For tables and logs."""
    if isinstance(path, CircuitPath):
        return f"relay {_socket_text(path.relay)} circuit {path.circuit.hex()}"
    if isinstance(path, TunnelPath):
        return f"tunnel {path.number}"
    return _socket_text(path)


def token_address(path: PathAddress) -> tuple[str, int]:
    """What a Retry token is bound to (RFC 9000 section 8.1.2): the address, or a name in its form.

    aioquic encodes tokens' addresses as IP address and port; for the other two a hash stands there.
    """
    if isinstance(path, tuple):
        return path[0], path[1]
    digest = hashlib.blake2b(path_text(path).encode(), digest_size=16).digest()
    return str(ipaddress.IPv6Address(digest)), 0


def _socket_text(address: SocketAddress) -> str:
    host, port = address[0].removeprefix("::ffff:"), address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
