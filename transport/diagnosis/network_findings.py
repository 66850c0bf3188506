"""What a measurement of the network means for a person: pure, one function a check.

A level says whether something can be mended that is worth it. What merely takes another way, as a
home behind a NAT that punching passes, is well.
"""

from dataclasses import dataclass
from typing import Final

from protocol.reach import Mapping
from transport.address import TcpAddress
from transport.diagnosis.bandwidth_probe import Bandwidth
from transport.diagnosis.finding import Finding, Level
from transport.diagnosis.nat_type import NatType

__all__ = [
    "Ipv6Observation",
    "PortMappingObservation",
    "RelayReport",
    "bandwidth_finding",
    "ipv6_finding",
    "nat_findings",
    "port_mapping_finding",
    "relay_findings",
]

RELAY_FAR_S: Final = 0.3
"""A token that passes three relayed hops this far away takes over a second."""

UPLINK_MBIT_PER_S_MIN: Final = 5.0
"""A token's activation at hidden size 8192 in bf16 is 16 KB: 26 ms of this."""

LOSS_WORTH_SAYING: Final = 0.001
"""A line loses less without anybody noticing."""

_HARD: Final = (Mapping.UNKNOWN, Mapping.BLOCKED, Mapping.DEPENDENT)
_IPV6_FIX: Final = "Switch on IPv6 in the router, if the provider offers it: it needs no NAT."


@dataclass(frozen=True, slots=True)
class RelayReport:
    """One relay that was asked for a slot. `reason` is set if it gave none."""

    relay: TcpAddress
    reason: str = ""
    answer_s: float = 0.0
    """From asking for a slot on a connection that stands to having it: some round trips."""
    round_trip_s: float | None = None
    """One round trip over UDP; None where that does not pass."""
    expires_at_s: int = 0
    """Of the slot, by the relay's clock."""
    answered_at_s: float = 0.0
    """The same moment's unix time by ours."""


@dataclass(frozen=True, slots=True)
class Ipv6Observation:
    """`answers` None: no relay that was given has an IPv6 address to try."""

    has_address: bool
    answers: bool | None


@dataclass(frozen=True, slots=True)
class PortMappingObservation:
    """What the home router offers. `protocol` is empty if it offers nothing."""

    protocol: str = ""
    router_outside: str = ""


def relay_findings(reports: tuple[RelayReport, ...]) -> list[Finding]:
    """One a relay: a dead one is grave only where no other lives."""
    if not reports:
        return [
            Finding(
                "relay",
                Level.WARN,
                "No relay is known, so UDP, NAT and bandwidth cannot be looked at.",
                "Give one with --relay MULTIADDR or in PIECEWORK_RELAYS; a LAN needs none.",
            )
        ]
    is_any_reached = any(not report.reason for report in reports)
    return [_relay_finding(report, is_any_reached) for report in reports]


def _relay_finding(report: RelayReport, is_any_reached: bool) -> Finding:
    where = f"{report.relay.host}:{report.relay.port}"
    if report.reason:
        return Finding(
            "relay",
            Level.WARN if is_any_reached else Level.FAIL,
            f"The relay at {where} gives no slot: {report.reason.rstrip('.')}.",
            "Check its address, and that TCP to that port may leave this network.",
        )
    if report.round_trip_s is None:
        text = (
            f"The relay at {where} gives a slot, within {report.answer_s * 1000:.0f} ms over TCP."
        )
        return Finding("relay", Level.OK, text)
    text = f"The relay at {where} gives a slot; {report.round_trip_s * 1000:.0f} ms round trip."
    if report.round_trip_s > RELAY_FAR_S:
        return Finding("relay", Level.WARN, text, "Use a relay that is nearer.")
    return Finding("relay", Level.OK, text)


def nat_findings(nat: NatType) -> list[Finding]:
    """`udp` and, where that passes, `nat`."""
    if nat.mapping is Mapping.BLOCKED:
        return [
            Finding(
                "udp",
                Level.WARN,
                "UDP does not leave this network: everything will go through a relay over TCP.",
                "Allow outgoing UDP in the firewall or router, then look again.",
            )
        ]
    if nat.mapping is Mapping.UNKNOWN:
        return [
            Finding(
                "udp",
                Level.WARN,
                "No relay's reflector answers, over UDP or otherwise: nothing can be said of it.",
                "Try another relay.",
            )
        ]
    return [Finding("udp", Level.OK, "UDP leaves this network, and answers come back."), _nat(nat)]


def _nat(nat: NatType) -> Finding:
    outside = f", seen outside as {nat.outside[0]}" if nat.outside else ""
    kept = ", the router keeps ports" if nat.keeps_port and nat.mapping is not Mapping.NONE else ""
    text = f"{nat.name[0].upper()}{nat.name[1:]}{outside}{kept}"
    if nat.mapping is Mapping.DEPENDENT:
        fix = "Allow UPnP or NAT-PMP in the router, or forward the UDP port of --listen-port."
        if nat.is_carrier_grade:
            fix = "Ask the provider for IPv6 or for a public IPv4 address."
        text += ": with most others behind a NAT only a relay works."
        return Finding("nat", Level.WARN, text, fix)
    if nat.is_carrier_grade:
        text += ", behind the carrier's own NAT: direct paths can be opened, but no port."
        return Finding("nat", Level.WARN, text, "Ask the provider for IPv6 or a public address.")
    if nat.is_double:
        text += ", with a second NAT before it: direct paths can be opened, but no port."
        fix = "Set one of the two routers to bridge mode, as an access point only."
        return Finding("nat", Level.WARN, text, fix)
    return Finding("nat", Level.OK, f"{text}: direct paths can be opened.")


def ipv6_finding(observed: Ipv6Observation, nat: NatType | None) -> Finding:
    """IPv6 is missed only where IPv4 is in trouble."""
    if observed.has_address and observed.answers:
        return Finding("ipv6", Level.OK, "IPv6 works.")
    if observed.has_address and observed.answers is None:
        text = "There is a global IPv6 address; no relay with IPv6 was given to try it."
        return Finding("ipv6", Level.OK, text)
    if observed.has_address:
        text = "There is a global IPv6 address, but UDP over IPv6 does not come back."
        return Finding("ipv6", Level.WARN, text, "Allow outgoing IPv6 UDP in the router.")
    if nat and (nat.mapping in _HARD or nat.is_carrier_grade):
        return Finding("ipv6", Level.WARN, "No IPv6, which would help here.", _IPV6_FIX)
    needed = "" if nat is None else "; nothing here needs it"
    return Finding("ipv6", Level.OK, f"No IPv6{needed}.")


def port_mapping_finding(observed: PortMappingObservation, nat: NatType | None) -> Finding:
    """Whether the router opens ports when asked; needed only where punching fails."""
    name = "port-mapping"
    if nat is not None and nat.mapping is Mapping.NONE:
        return Finding(name, Level.OK, "No NAT, so no port has to be opened.")
    if observed.protocol:
        said = f", and says that it is {observed.router_outside}" if observed.router_outside else ""
        return Finding(name, Level.OK, f"The router opens ports by {observed.protocol}{said}.")
    text = "The router opens no ports by NAT-PMP or UPnP"
    if nat is not None and nat.mapping is Mapping.DEPENDENT and not nat.is_carrier_grade:
        fix = "Switch on UPnP or NAT-PMP in the router."
        return Finding(name, Level.WARN, f"{text}, which would help here.", fix)
    return Finding(name, Level.OK, f"{text}." if nat is None else f"{text}; nothing here needs it.")


def bandwidth_finding(measured: Bandwidth) -> Finding:
    """What goes up comes down again in the measurement, so the slower of the two ways shows."""
    rate = f"{measured.mbit_per_s:.{0 if measured.mbit_per_s >= 10 else 1}f}"
    if not measured.is_limit:
        text = f"More than {rate} Mbit/s both up and down through the relay."
        return Finding("bandwidth", Level.OK, text)
    lost = f", {measured.loss:.1%} lost" if measured.loss >= LOSS_WORTH_SAYING else ""
    text = f"{rate} Mbit/s up, and at least that down, through the relay{lost}."
    if measured.mbit_per_s < UPLINK_MBIT_PER_S_MIN:
        fix = "Use a cable rather than radio, and pause other uploads; long prompts will be slow."
        return Finding("bandwidth", Level.WARN, text, fix)
    return Finding("bandwidth", Level.OK, text)
