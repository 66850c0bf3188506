"""A node's announcement as DNS-SD puts it (RFC 6763): a name, a port, addresses and a TXT record.

    <PeerId>._piecework._udp.local.  SRV  port of the data socket, host <PeerId>.local.
                                     TXT  v=1   id=<PeerId>   c=<cluster tag>
    <PeerId>.local.                  A, AAAA  the machine's LAN addresses

Pure. Everything is checked here, for anybody on the LAN can say anything.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Final

from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from transport.address import Address
from transport.base import PathKind
from transport.interfaces import is_loopback, path_kind_of
from transport.lan.discovery import Sighting

__all__ = [
    "ADDRESSES_MAX",
    "SERVICE_TYPE",
    "VERSION",
    "announced_hosts",
    "instance_name",
    "properties_of",
    "server_name",
    "sighting_of",
]

SERVICE_TYPE: Final = "_piecework._udp.local."
VERSION: Final = "1"
ADDRESSES_MAX: Final = 8
"""Of one machine; a dial tries at most 16 in all."""

_VALUE_BYTES_MAX: Final = 128
_PEER_ID_LENGTH_MAX: Final = 63
"""A DNS label; an Ed25519 PeerId has 52 characters."""


def instance_name(peer_id: PeerId) -> str:
    return f"{peer_id}.{SERVICE_TYPE}"


def server_name(peer_id: PeerId) -> str:
    return f"{peer_id}.local."


def properties_of(peer_id: PeerId, tag: str) -> dict[str, str]:
    """The TXT record."""
    return {"v": VERSION, "id": str(peer_id), "c": tag}


def announced_hosts(addresses: Sequence[Address]) -> tuple[list[str], int]:
    """Those of our addresses that are announced, and their port; ([], 0) for none.

    LAN addresses only, of one port: a node has one data socket.
    """
    lan = [
        address
        for address in addresses
        if path_kind_of(address.host) is PathKind.LAN and not is_loopback(address.host)
    ]
    if not lan:
        return [], 0
    port = lan[0].port
    hosts = dict.fromkeys(address.host for address in lan if address.port == port)
    return list(hosts)[:ADDRESSES_MAX], port


def sighting_of(
    properties: Mapping[bytes, bytes | None], hosts: Sequence[str], port: int | None
) -> Sighting:
    """What an announcement says. Raises RemoteProtocolError for one that makes no sense."""
    if (version := _text(properties, b"v")) != VERSION:
        raise RemoteProtocolError(f"An announcement of version '{version}' is not for us.")
    identity = _text(properties, b"id")
    if len(identity) > _PEER_ID_LENGTH_MAX:
        raise RemoteProtocolError("An announcement's PeerId is too long.")
    peer_id = PeerId.from_text(identity)
    if port is None or not 0 < port < 65536:
        raise RemoteProtocolError(f"An announcement names no port but {port}.")
    addresses = [
        Address(host, port, peer_id) for host in hosts[: 2 * ADDRESSES_MAX] if _is_dialled(host)
    ]
    if not addresses:
        raise RemoteProtocolError("An announcement names no address on a LAN.")
    # In a fixed order, so that the same announcement heard twice is the same sighting.
    addresses.sort(key=lambda address: (":" in address.host, address.host))
    return Sighting(peer_id, tuple(addresses[:ADDRESSES_MAX]), _text(properties, b"c"))


def _text(properties: Mapping[bytes, bytes | None], key: bytes) -> str:
    value = properties.get(key) or b""
    if len(value) > _VALUE_BYTES_MAX:
        raise RemoteProtocolError(f"An announcement's '{key.decode()}' is too long.")
    try:
        return value.decode("ascii")
    except UnicodeDecodeError:
        raise RemoteProtocolError(f"An announcement's '{key.decode()}' is not text.") from None


def _is_dialled(host: str) -> bool:
    """Only what lies on a LAN: an announcement cannot send us out, or to ourselves."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    is_nowhere = address.is_multicast or address.is_unspecified or address.is_link_local
    is_nowhere = is_nowhere and not (address.version == 4 and address.is_link_local)
    return not is_nowhere and not is_loopback(host) and path_kind_of(host) is PathKind.LAN
