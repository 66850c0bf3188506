"""Where a peer can be reached: a libp2p multiaddr of the one form the data socket speaks.

/ip4/203.0.113.7/udp/4001/quic-v1/p2p/12D3KooW…
"""

import ipaddress
from dataclasses import dataclass

from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.limits import NAME_BYTES_MAX

__all__ = ["Address"]


@dataclass(frozen=True, slots=True)
class Address:
    """One UDP address of one peer. `host` is a literal IPv4 or IPv6 address, never a name."""

    host: str
    port: int
    peer_id: PeerId

    def __post_init__(self) -> None:
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            raise RemoteProtocolError(f"'{self.host[:64]}' is not an IP address.") from None
        if not 0 < self.port < 65536:
            raise RemoteProtocolError(f"{self.port} is not a UDP port.")

    @classmethod
    def from_text(cls, text: str) -> "Address":
        """Parse the multiaddr; raises RemoteProtocolError for every other form."""
        if len(text) > NAME_BYTES_MAX:
            raise RemoteProtocolError("An address is at most 256 characters long.")
        match text.split("/"):
            case ["", "ip4" | "ip6", host, "udp", port, "quic-v1", "p2p", peer] if port.isdecimal():
                return cls(host, int(port), PeerId.from_text(peer))
        raise RemoteProtocolError(
            f"'{text}' is not an address of ours.",
            hint="Expected /ip4/HOST/udp/PORT/quic-v1/p2p/PEERID.",
        )

    def __str__(self) -> str:
        family = "ip6" if ":" in self.host else "ip4"
        return f"/{family}/{self.host}/udp/{self.port}/quic-v1/p2p/{self.peer_id}"
