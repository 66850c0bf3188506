"""What stands between this machine and the internet, from what reflectors saw. Pure.

The words are those of `protocol.reach`, which peers exchange before they punch: whether the mapping
depends on who is spoken to, and whether the filtering depends on the port (RFC 4787).
"""

import ipaddress
from dataclasses import dataclass
from typing import Final

from protocol.reach import Filtering, Mapping

__all__ = ["NatObservation", "NatType", "Sighting", "classify"]

CARRIER_NETWORK: Final = ipaddress.ip_network("100.64.0.0/10")
"""RFC 6598: between a carrier's NAT and the homes behind it, and nowhere else."""

HOME_NETWORKS: Final = (
    ipaddress.ip_network("192.168.0.0/16"),
    ipaddress.ip_network("172.16.0.0/12"),
)
"""RFC 1918 without 10.0.0.0/8, which carriers use for their own routers: two of these in a row
are two routers at home."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """One reflector port, and the address that it saw; both as (literal address, port)."""

    reflector: tuple[str, int]
    seen: tuple[str, int]


@dataclass(frozen=True, slots=True)
class NatObservation:
    """All that was seen of one socket."""

    local: tuple[str, int]
    """The socket's own address, on the interface that leads to the reflectors."""
    sightings: tuple[Sighting, ...]
    """Empty: no reflector answered."""
    other_port_heard: bool | None = None
    """An answer from a port that was never sent to came in; None: could not be asked."""
    tcp_answers: bool = False
    """A relay whose reflector was asked can be reached over TCP."""
    hops: tuple[str, ...] = ()
    """The first routers on the way out; may be empty, as not every system can tell."""
    router_outside: str = ""
    """What the home router says its outside address is; empty when it does not say."""


@dataclass(frozen=True, slots=True)
class NatType:
    """What it comes to."""

    mapping: Mapping
    filtering: Filtering
    keeps_port: bool
    """The router uses the same port outside as the machine does inside."""
    is_carrier_grade: bool
    """A carrier's NAT stands behind the home's: no setting of the router helps."""
    is_double: bool
    """More than one NAT in a row, the carrier's among them."""
    outside: tuple[str, int] | None

    @property
    def name(self) -> str:
        """What people call it."""
        match self.mapping:
            case Mapping.UNKNOWN:
                return "unknown"
            case Mapping.BLOCKED:
                return "UDP blocked"
            case Mapping.NONE:
                is_shut = self.filtering is Filtering.PORT_DEPENDENT
                return "firewall without NAT" if is_shut else "no NAT"
            case Mapping.DEPENDENT:
                return "symmetric NAT"
        return _CONES[self.filtering]


_CONES: Final = {
    Filtering.OPEN: "full or restricted cone NAT",
    Filtering.PORT_DEPENDENT: "port-restricted NAT",
    Filtering.UNKNOWN: "cone NAT",
}


def classify(observed: NatObservation) -> NatType:
    """The type that explains what was observed."""
    mapping = _mapping(observed)
    is_translated = mapping in (Mapping.INDEPENDENT, Mapping.DEPENDENT)
    is_carrier_grade = is_translated and _is_behind_carrier(observed)
    return NatType(
        mapping=mapping,
        filtering=_filtering(observed),
        keeps_port=all(each.seen[1] == observed.local[1] for each in observed.sightings),
        is_carrier_grade=is_carrier_grade,
        is_double=is_carrier_grade or (is_translated and _is_behind_two_routers(observed)),
        outside=observed.sightings[0].seen if observed.sightings else None,
    )


def _mapping(observed: NatObservation) -> Mapping:
    seen = {sighting.seen for sighting in observed.sightings}
    if not seen:
        return Mapping.BLOCKED if observed.tcp_answers else Mapping.UNKNOWN
    if seen == {observed.local}:
        return Mapping.NONE
    return Mapping.INDEPENDENT if len(seen) == 1 else Mapping.DEPENDENT


def _filtering(observed: NatObservation) -> Filtering:
    if observed.other_port_heard is None:
        return Filtering.UNKNOWN
    return Filtering.OPEN if observed.other_port_heard else Filtering.PORT_DEPENDENT


def _is_behind_carrier(observed: NatObservation) -> bool:
    """An address of carriers' own on the way, or a router that has not the address others see."""
    on_the_way = [observed.local[0], *observed.hops, observed.router_outside or observed.local[0]]
    return any(ipaddress.ip_address(host) in CARRIER_NETWORK for host in on_the_way)


def _is_behind_two_routers(observed: NatObservation) -> bool:
    outside_hosts = {sighting.seen[0] for sighting in observed.sightings}
    if observed.router_outside and observed.router_outside not in outside_hosts:
        return True
    return len(observed.hops) > 1 and all(map(_is_of_home, observed.hops[:2]))


def _is_of_home(host: str) -> bool:
    address = ipaddress.ip_address(host)
    return any(address in network for network in HOME_NETWORKS)
