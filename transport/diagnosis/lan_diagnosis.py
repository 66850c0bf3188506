"""Why discovery finds nobody: what a person can do about it, for `piecework doctor`.

`explain…` are pure; `diagnose_lan` looks at the network and takes a few seconds.
"""

from collections.abc import Iterable, Sequence

from transport.base import PathKind
from transport.diagnosis.finding import Finding, Level
from transport.diagnosis.lan_probe import (
    LISTEN_S,
    MulticastProbe,
    StaticProbe,
    probe_multicast,
    probe_static,
)
from transport.interfaces import LocalAddress, local_addresses, path_kind_of
from transport.lan.mdns import multicast_hosts
from transport.lan.static import StaticDialler
from transport.lan.verdict import LanCarrierKind, LanVerdict

__all__ = [
    "diagnose_lan",
    "explain_interfaces",
    "explain_multicast",
    "explain_static",
    "explain_verdicts",
]


async def diagnose_lan(
    dialler: StaticDialler | None = None,
    static_peers: Sequence[str] = (),
    verdicts: Iterable[LanVerdict] = (),
    *,
    listen_s: float = LISTEN_S,
) -> list[Finding]:
    """Look at interfaces, multicast, and (with a dialler) at the typed peers `HOST:PORT`.

    `verdicts` are FastLan's. Raises LocalProtocolError for a text that is not HOST:PORT.
    """
    addresses = local_addresses()
    findings = explain_interfaces(addresses)
    findings += explain_multicast(await probe_multicast(multicast_hosts(), listen_s=listen_s))
    if dialler is not None and static_peers:
        for probe in await probe_static(static_peers, dialler, addresses):
            findings.append(explain_static(probe))
    return findings + explain_verdicts(verdicts)


def explain_interfaces(addresses: Sequence[LocalAddress]) -> list[Finding]:
    """Is there a LAN at all, and can it multicast?"""
    lan = [local for local in addresses if path_kind_of(local.host) is PathKind.LAN]
    if not lan:
        return [
            Finding(
                "lan-interface",
                Level.FAIL,
                "This machine has no address on a local network.",
                "Connect it by cable or Wi-Fi to the network of the other machines.",
            )
        ]
    findings = [Finding("lan-interface", Level.OK, f"On the LAN as {_table(lan)}.")]
    if not any(local.has_multicast for local in lan):
        findings.append(
            Finding(
                "multicast-interface",
                Level.FAIL,
                "None of this machine's network interfaces can multicast, so it finds nobody.",
                "Name the other machines with --peer HOST:PORT.",
            )
        )
    physical = [local for local in lan if not local.is_virtual]
    if physical and all(local.is_wireless for local in physical):
        findings.append(
            Finding(
                "lan-speed",
                Level.WARN,
                "The only way to the other machines is Wi-Fi, which costs several ms per token.",
                "Connect the machines by cable.",
            )
        )
    return findings


def explain_multicast(probes: Sequence[MulticastProbe]) -> list[Finding]:
    """Does multicast leave, come back, and do others speak?"""
    findings = [finding for probe in probes if (finding := _broken(probe)) is not None]
    working = [probe for probe in probes if probe.heard_own]
    if not working:
        return findings
    hosts = ", ".join(probe.host for probe in working)
    findings.append(
        Finding("multicast-loopback", Level.OK, f"Multicast leaves and comes back on {hosts}.")
    )
    others = sum(probe.other_hosts for probe in working)
    ours = sum(probe.piecework_hosts for probe in working)
    if ours:
        text = f"{_machines(ours)} on this network {'speaks' if ours == 1 else 'speak'} Piecework."
        findings.append(Finding("mdns-neighbours", Level.OK, text))
    elif others:
        findings.append(
            Finding(
                "mdns-neighbours",
                Level.WARN,
                f"{_machines(others)} announced something here, but nobody announced Piecework.",
                "Start `piecework up` on the other machine, with the same cluster name, and see "
                "that its firewall lets UDP port 5353 in.",
            )
        )
    else:
        findings.append(
            Finding(
                "mdns-neighbours",
                Level.WARN,
                "No other machine's multicast was heard: there is none, or the network drops it.",
                "In the router or access point switch off client isolation (guest networks have "
                "it) and multicast filtering (IGMP snooping), or name the other machines with "
                "--peer HOST:PORT.",
            )
        )
    return findings


def explain_static(probe: StaticProbe) -> Finding:
    """What became of one typed address."""
    where, name = f"{probe.host}:{probe.port}", "static-peer"
    if not probe.quic_error:
        return Finding(name, Level.OK, f"A Piecework node answers at {where}.")
    if probe.tcp_answers:
        return Finding(
            name,
            Level.FAIL,
            f"The machine at {probe.host} is there, but nobody answers on UDP port {probe.port}.",
            "See that Piecework runs there on that port, and that the firewalls of both machines "
            f"let UDP port {probe.port} through.",
        )
    if probe.local is not None and probe.has_hardware_address is False:
        if probe.local.is_wireless:
            return Finding(
                name,
                Level.FAIL,
                f"{probe.host} is on this Wi-Fi network, but not even ARP reaches it.",
                "The access point probably keeps its clients apart: switch off client isolation "
                "(also called AP isolation or guest mode), or use a cable.",
            )
        return Finding(
            name,
            Level.FAIL,
            f"No machine has the address {probe.host} on this network.",
            "See that it is switched on and what its address is now; if it is on Wi-Fi, switch "
            "off client isolation in the access point.",
        )
    if probe.tcp_answers is None:
        return Finding(
            name,
            Level.FAIL,
            f"{where}: {probe.quic_error}.",
            "Check the name, or type the address.",
        )
    return Finding(
        name,
        Level.FAIL,
        f"Nothing at all comes back from {probe.host}: {probe.quic_error}",
        "See that the machine is switched on, that its firewall lets "
        f"UDP port {probe.port} in, and that this network leads there.",
    )


def explain_verdicts(verdicts: Iterable[LanVerdict]) -> list[Finding]:
    """Which carrier streams to each peer take; a blocked TCP port is worth mending."""
    findings = []
    for verdict in verdicts:
        text = f"Streams to {verdict.peer_id.short} go over {verdict.carrier.upper()}: "
        is_blocked = verdict.carrier is LanCarrierKind.QUIC and verdict.tcp_echo_s is None
        findings.append(
            Finding(
                "lan-carrier",
                Level.WARN if is_blocked else Level.OK,
                text + verdict.reason,
                "Let TCP from this network through the firewall of the other machine: streams "
                "then take a tenth of the time."
                if is_blocked
                else "",
            )
        )
    return findings


def _broken(probe: MulticastProbe) -> Finding | None:
    if probe.bind_error:
        return Finding(
            "mdns-port",
            Level.FAIL,
            f"Multicast DNS cannot be used on {probe.host}: {probe.bind_error}.",
            "Another program keeps UDP port 5353 to itself, or the interface cannot multicast: "
            "close that program, or name the other machines with --peer HOST:PORT.",
        )
    if probe.send_error:
        return Finding(
            "multicast-send",
            Level.FAIL,
            f"Sending multicast on {probe.host} is refused: {probe.send_error}.",
            "Allow outgoing UDP to 224.0.0.251 port 5353 in this machine's firewall.",
        )
    if not probe.heard_own:
        return Finding(
            "multicast-loopback",
            Level.FAIL,
            f"Our own multicast on {probe.host} is not heard back: something here drops it.",
            "Allow incoming UDP port 5353 in this machine's firewall.",
        )
    return None


def _table(addresses: Sequence[LocalAddress]) -> str:
    return ", ".join(
        f"{local.host} ({local.interface}"
        + (f", {local.speed_mbits} Mbit/s" if local.speed_mbits else "")
        + (", Wi-Fi" if local.is_wireless else "")
        + ")"
        for local in addresses
    )


def _machines(count: int) -> str:
    return "1 machine" if count == 1 else f"{count} machines"
