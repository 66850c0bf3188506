"""Which addresses this machine has, and what kind of path leads to one."""

import ipaddress
import socket
from typing import Final

import psutil

from transport.base import PathKind

__all__ = ["is_loopback", "local_hosts", "path_kind_of"]

_LAN_NETWORKS: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "127.0.0.0/8",
            "fc00::/7",
            "fe80::/10",
            "::1/128",
        ),
    )
)
"""RFC 1918, 3927, 4193, 4291. Carrier-grade NAT (100.64.0.0/10) is not a LAN."""


def path_kind_of(host: str) -> PathKind:
    """LAN for private, link-local and loopback addresses, else DIRECT."""
    address = _parse(host)
    is_lan = any(address in network for network in _LAN_NETWORKS)
    return PathKind.LAN if is_lan else PathKind.DIRECT


def is_loopback(host: str) -> bool:
    return _parse(host).is_loopback


def local_hosts(listen_host: str) -> tuple[str, ...]:
    """The literal addresses at which a socket bound to `listen_host` can be reached.

    A wildcard becomes the addresses of the interfaces that are up, without loopback and without
    IPv6 link-local ones, which mean nothing without the name of an interface.
    """
    bound = _parse(listen_host)
    if not bound.is_unspecified:
        return (str(bound),)
    families = (socket.AF_INET,) if bound.version == 4 else (socket.AF_INET, socket.AF_INET6)
    is_up = {name: stats.isup for name, stats in psutil.net_if_stats().items()}
    hosts: list[str] = []
    for name, addresses in psutil.net_if_addrs().items():
        for entry in addresses:
            if entry.family not in families or not is_up.get(name, False):
                continue
            address = _parse(entry.address)
            if not address.is_loopback and not (address.version == 6 and address.is_link_local):
                hosts.append(str(address))
    return tuple(dict.fromkeys(hosts))


def _parse(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """A literal address; without its scope, and as IPv4 where it is mapped into IPv6."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.version == 6 and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
