"""Where packets end that are addressed to nobody in the laboratory, and who sent them."""

import contextlib
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from tests.netlab.link import Shape
from tests.netlab.namespace import LabError, Namespace

if TYPE_CHECKING:
    from tests.netlab.lab import Lab

__all__ = ["OutsidePacket", "Void"]

HEADER_BYTES: Final = 64  # of IP and the ports after it
BUFFER_BYTES: Final = 4 << 20  # some thousand packets; `packets` says when more were lost
GATEWAY: Final = "192.0.0.8"  # RFC 7600's dummy address: nobody's, and it needs no network
GATEWAY_IPV6: Final = "fe80::8"

_ETH_P_ALL: Final = 0x0003
_ETH_P_IP: Final = 0x0800
_ETH_P_IPV6: Final = 0x86DD
_PACKET_STATISTICS: Final = 6
_SOL_PACKET: Final = 263
_SO_RCVBUFFORCE: Final = 33


@dataclass(frozen=True, slots=True)
class OutsidePacket:
    """`protocol` is IP's number; `port` the destination's, of TCP and UDP."""

    source: str
    destination: str
    protocol: int
    port: int | None


class Void:
    """A namespace that hears everything and answers nothing."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._drains = 0
        with namespace.enter():
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL)
            )
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER_BYTES)
        self._socket.setblocking(False)

    def drain(self, lab: "Lab", source: Namespace) -> None:
        """All that `source` has no other route for comes here."""
        self._drains += 1
        link = lab.connect(source, "void0", self._namespace, f"from{self._drains}", Shape())
        link.near.know(GATEWAY, link.far.mac)
        source.ip(f"route add default via {GATEWAY} dev void0 onlink")
        if lab.ipv6:
            link.near.know(GATEWAY_IPV6, link.far.mac)
            source.ip(f"route add default via {GATEWAY_IPV6} dev void0", ipv6=True)

    def packets(self) -> list[OutsidePacket]:
        """Those since the last call; raises LabError if there were more than the buffer holds."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                header, (_, ether_type, *_) = self._socket.recvfrom(HEADER_BYTES)
                packet = _parse(ether_type, header)
                if packet and not ip_address(packet.destination).is_multicast:
                    found.append(packet)
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        if (dropped := struct.unpack("=II", statistics)[1]) > 0:
            raise LabError(f"The void missed {dropped} packets: ask it more often.")
        return found

    def close(self) -> None:
        self._socket.close()


def _parse(ether_type: int, header: bytes) -> OutsidePacket | None:
    if ether_type == _ETH_P_IP:
        protocol, ports = header[9], (header[0] & 15) * 4
        source, destination = header[12:16], header[16:20]
    elif ether_type == _ETH_P_IPV6:
        protocol, ports = header[6], 40
        source, destination = header[8:24], header[24:40]
    else:
        return None
    port = None
    if protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
        port = int.from_bytes(header[ports + 2 : ports + 4], "big")
    return OutsidePacket(str(ip_address(source)), str(ip_address(destination)), protocol, port)
