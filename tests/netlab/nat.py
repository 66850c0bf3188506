"""What a home router does with addresses and ports, as nftables rules: one text per kind, pure.

EI, AD and APD are endpoint-independent, address-dependent, address-and-port-dependent (RFC 4787);
M is mapping, F filtering.

kind              mapping  filtering  port kept
none              no NAT   EIF        yes        a routed public network, no filter
firewall          no NAT   APDF       yes        the same, only answers come in
full-cone         EIM      EIF        yes
restricted        EIM      ADF        yes
port-restricted   EIM      APDF       yes
remapping         EIM      APDF       no         ports out of a range drawn anew at each start
symmetric         APDM     APDF       no         any port, a new one for each destination
symmetric-narrow  APDM     APDF       no         the same out of few ports
cgnat             EIM      APDF       no         port-restricted at home, remapping at the carrier
udp-blocked       -        -          -          only TCP passes
"""

import random
from enum import StrEnum
from typing import Final

__all__ = ["LAN", "WAN", "NatKind", "draw_ports", "nat_rules"]

WAN: Final = "wan0"
LAN: Final = "lan0"
REMAPPED_PORTS: Final = 4000  # of `remapping`
NARROW_PORTS: Final = 64  # of `symmetric-narrow`; much fewer run out while a test talks
MAPPINGS_MAX: Final = 65535


class NatKind(StrEnum):
    """The kinds of the table above."""

    NONE = "none"
    FIREWALL = "firewall"
    FULL_CONE = "full-cone"
    RESTRICTED = "restricted"
    PORT_RESTRICTED = "port-restricted"
    REMAPPING = "remapping"
    SYMMETRIC = "symmetric"
    SYMMETRIC_NARROW = "symmetric-narrow"
    CGNAT = "cgnat"
    UDP_BLOCKED = "udp-blocked"

    @property
    def is_routed(self) -> bool:
        """Whether the hosts behind it have public addresses of their own."""
        return self in (NatKind.NONE, NatKind.FIREWALL)


def draw_ports(kind: NatKind) -> tuple[int, int] | None:
    """The first and last outside port of a router that has just started; None: all of them."""
    size = {NatKind.REMAPPING: REMAPPED_PORTS, NatKind.SYMMETRIC_NARROW: NARROW_PORTS}.get(kind)
    if size is None:
        return None
    first = random.randrange(20000, 60000 - size)
    return first, first + size - 1


def nat_rules(
    kind: NatKind, wan_ip: str, *, ports: tuple[int, int] | None, mapping_timeout_s: int, ipv6: bool
) -> str:
    """The whole ruleset of one router, replacing what was there."""
    chains = [_forward(kind), _INPUT]
    if not kind.is_routed:
        chains.append(_masquerade(kind, ports))
    if kind in (NatKind.FULL_CONE, NatKind.RESTRICTED):
        chains.append(_cone(kind, wan_ip, mapping_timeout_s))
    rules = _table("ip", chains)
    return rules + _table("ip6", [_forward(kind, ipv6=True)]) if ipv6 else rules


def _table(family: str, chains: list[str]) -> str:
    name = f"{family} home"
    body = "\n".join(chains)
    # declared before deleted, or the first load would fail
    return f"table {name}\ndelete table {name}\ntable {name} {{\n{body}\n}}\n"


# Stray packets to the router must be dropped before connection tracking confirms them. Accepted,
# peer → outside port would take the tuple, and the punch that goes out next another port.
_INPUT: Final = f"""
chain to_router {{
    type filter hook input priority filter; policy drop
    iifname {{ "{LAN}", "lo" }} accept
    ct state established,related accept
    icmp type echo-request accept
}}"""


def _forward(kind: NatKind, *, ipv6: bool = False) -> str:
    is_open = kind is NatKind.NONE and not ipv6
    return f"""
chain through {{
    type filter hook forward priority filter; policy {"accept" if is_open else "drop"}
    {"meta l4proto udp drop" if kind is NatKind.UDP_BLOCKED else ""}
    ct state invalid drop
    iifname "{LAN}" accept
    ct state established,related accept
    {"meta l4proto ipv6-icmp accept" if ipv6 else "ct status dnat accept"}
}}"""


def _masquerade(kind: NatKind, ports: tuple[int, int] | None) -> str:
    # Plain masquerade maps endpoint-independently while no two hosts want one port; a range does
    # too; "fully-random" chooses anew for every connection.
    to = f" to :{ports[0]}-{ports[1]}" if ports else ""
    how = " fully-random" if kind in (NatKind.SYMMETRIC, NatKind.SYMMETRIC_NARROW) else ""
    return f"""
chain outgoing {{
    type nat hook postrouting priority srcnat
    oifname "{WAN}" meta l4proto {{ tcp, udp }} masquerade{to}{how}
    oifname "{WAN}" masquerade
}}"""


def _cone(kind: NatKind, wan_ip: str, timeout_s: int) -> str:
    """Let strangers in by a mapping that exists; `restricted`: only from addresses spoken to.

    Connections are confirmed at the end of postrouting: ports are translated before priority 150.
    """
    lasts = f"flags dynamic,timeout; timeout {timeout_s}s; size {MAPPINGS_MAX}"
    known = "udp dport . ip saddr @spoken_to" if kind is NatKind.RESTRICTED else ""
    out = f'oifname "{WAN}" meta l4proto udp'
    return f"""
map inside {{ type inet_service : ipv4_addr . inet_service; {lasts}; }}
set spoken_to {{ type inet_service . ipv4_addr; {lasts}; }}
chain incoming {{
    type nat hook prerouting priority dstnat
    iifname "{WAN}" ip daddr {wan_ip} meta l4proto udp {known} dnat ip to udp dport map @inside
}}
chain remember {{
    type filter hook postrouting priority 150
    {out} ct direction original update @inside {{ udp sport : ct original ip saddr . ct original proto-src }}
    {out} ct direction reply update @inside {{ udp sport : ct reply ip saddr . ct reply proto-src }}
    {out} update @spoken_to {{ udp sport . ip daddr }}
}}"""  # noqa: E501
