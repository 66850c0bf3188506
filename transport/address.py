"""Where a peer can be reached: libp2p multiaddrs of the three forms that we speak.

/ip4/203.0.113.7/udp/4001/quic-v1/p2p/12D3KooW…                     Address: the data socket
/ip4/203.0.113.9/tcp/4001/p2p/12D3KooW…                             TcpAddress: control plane
/ip4/203.0.113.9/tcp/4001/p2p/12D3KooRelay/p2p-circuit/p2p/12D3KooW… CircuitAddress: by a relay
"""

import contextlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.limits import NAME_BYTES_MAX

__all__ = [
    "Address",
    "AnyAddress",
    "CircuitAddress",
    "TcpAddress",
    "known_addresses",
    "parse_address",
]


@dataclass(frozen=True, slots=True)
class _Socket:
    """A port of one peer. `host` is a literal IPv4 or IPv6 address, never a name."""

    host: str
    port: int
    peer_id: PeerId

    def __post_init__(self) -> None:
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            raise RemoteProtocolError(f"'{self.host[:64]}' is not an IP address.") from None
        if not 0 < self.port < 65536:
            raise RemoteProtocolError(f"{self.port} is not a port.")

    @property
    def _family(self) -> str:
        return "ip6" if ":" in self.host else "ip4"


@dataclass(frozen=True, slots=True)
class Address(_Socket):
    """One UDP address of one peer's data socket."""

    @classmethod
    def from_text(cls, text: str) -> "Address":
        """Parse the multiaddr; raises RemoteProtocolError for every other form."""
        if isinstance(address := parse_address(text), cls):
            return address
        raise _unknown(text, "/ip4/HOST/udp/PORT/quic-v1/p2p/PEERID")

    def __str__(self) -> str:
        return f"/{self._family}/{self.host}/udp/{self.port}/quic-v1/p2p/{self.peer_id}"


@dataclass(frozen=True, slots=True)
class TcpAddress(_Socket):
    """Where one peer's control plane (or a relay's) listens."""

    @classmethod
    def from_text(cls, text: str) -> "TcpAddress":
        """Parse the multiaddr; raises RemoteProtocolError for every other form."""
        if isinstance(address := parse_address(text), cls):
            return address
        raise _unknown(text, "/ip4/HOST/tcp/PORT/p2p/PEERID")

    def __str__(self) -> str:
        return f"/{self._family}/{self.host}/tcp/{self.port}/p2p/{self.peer_id}"


@dataclass(frozen=True, slots=True)
class CircuitAddress:
    """A peer that has a reservation at a relay."""

    relay: TcpAddress
    peer_id: PeerId

    def __str__(self) -> str:
        return f"{self.relay}/p2p-circuit/p2p/{self.peer_id}"


AnyAddress = Address | TcpAddress | CircuitAddress


def parse_address(text: str) -> AnyAddress:
    """Any of the three forms; raises RemoteProtocolError for everything else."""
    if len(text) > NAME_BYTES_MAX:
        raise RemoteProtocolError("An address is at most 256 characters long.")
    match text.split("/"):
        case ["", "ip4" | "ip6", host, "udp", port, "quic-v1", "p2p", peer] if port.isdecimal():
            return Address(host, int(port), PeerId.from_text(peer))
        case ["", "ip4" | "ip6", host, "tcp", port, "p2p", peer] if port.isdecimal():
            return TcpAddress(host, int(port), PeerId.from_text(peer))
        case ["", *relay, "p2p-circuit", "p2p", peer] if len(relay) == 6:
            return CircuitAddress(
                TcpAddress.from_text("/" + "/".join(relay)), PeerId.from_text(peer)
            )
    raise _unknown(text, "/ip4/HOST/udp/PORT/quic-v1/p2p/PEERID, or the like")


def known_addresses(texts: Iterable[str]) -> tuple[AnyAddress, ...]:
    """Those of the forms we speak; what a later version or a mistake wrote is left out."""
    found: list[AnyAddress] = []
    for text in texts:
        with contextlib.suppress(RemoteProtocolError):
            found.append(parse_address(text))
    return tuple(found)


def _unknown(text: str, expected: str) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"'{text[:NAME_BYTES_MAX]}' is not an address of ours.", hint=f"Expected {expected}."
    )
