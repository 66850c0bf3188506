"""Which addresses this machine has, what its interfaces are like, and what leads where."""

import ipaddress
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from transport.base import PathKind

__all__ = [
    "LocalAddress",
    "interface_towards",
    "is_loopback",
    "local_addresses",
    "local_hosts",
    "path_kind_of",
    "rank_lan_hosts",
]

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

_VIRTUAL_PREFIXES: Final = (
    *("docker", "br-", "veth", "virbr", "vmnet", "vboxnet", "cni", "flannel", "podman", "lxc"),
    *("tailscale", "utun", "tun", "tap", "wg", "zt", "vethernet", "awdl", "llw"),
)
"""Containers, virtual machines, VPNs, and Apple's own peer to peer links; in lower case."""

_WIRELESS_PREFIXES: Final = ("wl", "wifi", "wi-fi", "ath", "ra")

_WIRELESS_SHARE: Final = 0.25
"""What arrives of a wireless link's nominal speed, both stations sharing the air."""

_UNKNOWN_WIRED_MBITS: Final = 1000
_UNKNOWN_WIRELESS_MBITS: Final = 300
"""Where the system does not say: what is usual."""


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """One address of one interface that is up. `speed_mbits` is 0 where nobody knows."""

    host: str
    prefix_bits: int
    interface: str
    speed_mbits: int = 0
    mtu: int = 1500
    is_wireless: bool = False
    is_virtual: bool = False
    has_multicast: bool = True

    @property
    def usable_mbits(self) -> float:
        """What to expect of it, known or guessed."""
        if self.is_wireless:
            return _WIRELESS_SHARE * (self.speed_mbits or _UNKNOWN_WIRELESS_MBITS)
        return float(self.speed_mbits or _UNKNOWN_WIRED_MBITS)

    def leads_to(self, host: str) -> bool:
        """Whether `host` is on this interface's own network."""
        network = ipaddress.ip_network(f"{self.host}/{self.prefix_bits}", strict=False)
        return _parse(host) in network


def path_kind_of(host: str) -> PathKind:
    """LAN for private, link-local and loopback addresses, else DIRECT."""
    address = _parse(host)
    is_lan = any(address in network for network in _LAN_NETWORKS)
    return PathKind.LAN if is_lan else PathKind.DIRECT


def is_loopback(host: str) -> bool:
    return _parse(host).is_loopback


def local_hosts(listen_host: str) -> tuple[str, ...]:
    """The literal addresses at which a socket bound to `listen_host` can be reached.

    A wildcard becomes the addresses of the interfaces that are up, fastest first, without
    loopback and without IPv6 link-local ones, which mean nothing without an interface's name.
    """
    bound = _parse(listen_host)
    if not bound.is_unspecified:
        return (str(bound),)
    addresses = local_addresses()
    if bound.version == 4:
        addresses = tuple(local for local in addresses if ":" not in local.host)
    return tuple(dict.fromkeys(local.host for local in addresses))


def local_addresses() -> tuple[LocalAddress, ...]:
    """Of interfaces that are up, fastest first and virtual ones last.

    Without loopback and IPv6 link-local addresses. A few system calls; never blocks.
    """
    facts = psutil.net_if_stats()
    found: list[LocalAddress] = []
    for name, entries in psutil.net_if_addrs().items():
        if name not in facts or not facts[name].isup:
            continue
        flags = facts[name].flags.split(",") if facts[name].flags else ["multicast"]
        for entry in entries:
            if entry.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            address = _parse(entry.address)
            if address.is_loopback or (address.version == 6 and address.is_link_local):
                continue
            found.append(
                LocalAddress(
                    host=str(address),
                    prefix_bits=_prefix_bits(entry.netmask, address.max_prefixlen),
                    interface=name,
                    # 65 535 is how the kernel writes -1, "nobody knows".
                    speed_mbits=facts[name].speed % 65535,
                    mtu=facts[name].mtu,
                    is_wireless=_is_wireless(name),
                    is_virtual=name.lower().startswith(_VIRTUAL_PREFIXES),
                    has_multicast="multicast" in flags,
                )
            )
    return tuple(sorted(found, key=_preference))


def interface_towards(host: str, addresses: Iterable[LocalAddress]) -> LocalAddress | None:
    """Which of our addresses lies on `host`'s own network; None where a router stands between."""
    leading = [local for local in addresses if local.leads_to(host)]
    return min(leading, key=lambda local: (-local.prefix_bits, *_preference(local)), default=None)


def rank_lan_hosts(
    hosts: Sequence[str],
    addresses: Sequence[LocalAddress],
    speeds_mbits: Mapping[str, int] | None = None,
) -> tuple[str, ...]:
    """The peer's addresses in the order in which to try them; duplicates and non-LAN ones go.

    Those on a network that we are on too come first, by the slower of the two ends' interfaces
    (`speeds_mbits` tells the peer's ends; 0 or nothing is unknown); the others keep their order.
    """
    speeds = speeds_mbits or {}

    def order(host: str) -> tuple[bool, bool, float]:
        local = interface_towards(host, addresses)
        if local is None:
            return True, False, 0.0
        usable = local.usable_mbits
        return False, local.is_virtual, -min(usable, speeds.get(host) or usable)

    unique = dict.fromkeys(host for host in hosts if path_kind_of(host) is PathKind.LAN)
    return tuple(sorted(unique, key=order))


def _preference(local: LocalAddress) -> tuple[bool, float]:
    return local.is_virtual, -local.usable_mbits


def _prefix_bits(netmask: str | None, longest: int) -> int:
    if not netmask:
        return longest
    return int(ipaddress.ip_address(netmask)).bit_count()


def _is_wireless(name: str) -> bool:
    if (known := Path("/sys/class/net", name)).exists():
        return Path(known, "phy80211").exists()
    return name.lower().startswith(_WIRELESS_PREFIXES)


def _parse(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """A literal address; without its scope, and as IPv4 where it is mapped into IPv6."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.version == 6 and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
