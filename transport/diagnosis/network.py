"""Looking at this machine's way to the world, for `piecework doctor`: relays, UDP, NAT, bandwidth.

Everything goes through sockets and a key of its own, so a node that runs here is left in peace.
Every wait is bounded; what fails becomes a finding.
"""

import asyncio
import contextlib
import dataclasses
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic, time
from typing import Final

from protocol.errors import PieceworkError
from protocol.identity import KeyPair
from transport.address import TcpAddress
from transport.control.base import ControlHost
from transport.diagnosis.bandwidth_probe import measure_bandwidth
from transport.diagnosis.finding import Finding, Level
from transport.diagnosis.nat_probe import ReflectorPorts, observe_nat, reflect_rtt_s
from transport.diagnosis.nat_type import NatType, classify
from transport.diagnosis.network_findings import (
    Ipv6Observation,
    PortMappingObservation,
    RelayReport,
    bandwidth_finding,
    ipv6_finding,
    nat_findings,
    port_mapping_finding,
    relay_findings,
)
from transport.errors import DialFailed
from transport.interfaces import local_hosts
from transport.reach import nat_pmp, upnp
from transport.reach.gateway import default_gateway
from transport.reach.relays import Circuit, Relays

__all__ = ["RELAYS_MAX", "NetDiagnosis"]

RELAYS_MAX: Final = 4
"""Two tell all that can be told; more are for who compares them."""

REACH_TIMEOUT_S: Final = 6.0
"""TCP, Noise, yamux and RESERVE are eight round trips, of at most half a second each."""

CIRCUIT_TIMEOUT_S: Final = 3.0
"""One round trip on a connection that stands."""


class NetDiagnosis:
    """One look. `look` first, then `measure`; `close` in any case."""

    def __init__(self, control: ControlHost, relays: Sequence[TcpAddress]) -> None:
        """The `control` host is the caller's; its key should be a throw-away one."""
        self._control = control
        self._relays = tuple(dict.fromkeys(relays))[:RELAYS_MAX]
        self._borrowed = Relays(control, (), lambda: None)
        self._circuits: dict[TcpAddress, Circuit] = {}
        self.reports: tuple[RelayReport, ...] = ()
        """Of the relays, once `look` is done."""

    async def look(self) -> list[Finding]:
        """Relays, UDP, NAT, IPv6 and the router, in this order; takes under 15 s."""
        port_mapping = asyncio.create_task(_port_mapping())
        try:
            self.reports = tuple(await asyncio.gather(*map(self._reach, self._relays)))
            self._circuits = await self._borrow()
            mapping = await port_mapping
            nat, round_trips_s = await asyncio.gather(self._nat(mapping), self._round_trips_s())
        finally:
            port_mapping.cancel()
        self.reports = tuple(
            dataclasses.replace(report, round_trip_s=round_trips_s.get(report.relay))
            for report in self.reports
        )
        findings = relay_findings(self.reports)
        if nat is not None:
            findings += nat_findings(nat)
        findings.append(ipv6_finding(self._ipv6(), nat))
        findings.append(port_mapping_finding(mapping, nat))
        return findings

    async def measure(self) -> list[Finding]:
        """The bandwidth by the nearest relay, where UDP passes; nothing else should run now."""
        near = [each for each in self.reports if each.round_trip_s is not None]
        if not near:
            return []
        circuit = self._circuits[min(near, key=lambda each: each.round_trip_s or 0.0).relay]
        try:
            return [bandwidth_finding(await measure_bandwidth(circuit.host, circuit.grant))]
        except PieceworkError as error:
            text = f"The bandwidth could not be measured: {error.message}"
            return [Finding("bandwidth", Level.WARN, text, "Try another relay.")]

    async def close(self) -> None:
        """Give the circuits back. The control host is closed by its owner."""
        await asyncio.gather(*(circuit.close() for circuit in self._circuits.values()))

    async def _reach(self, relay: TcpAddress) -> RelayReport:
        try:
            await self._control.reserve(relay, timeout_s=REACH_TIMEOUT_S)
            began = monotonic()
            renewed = await self._control.reserve(relay, timeout_s=REACH_TIMEOUT_S)
        except PieceworkError as error:
            return RelayReport(relay, reason=_reason(error))
        return RelayReport(
            relay,
            answer_s=monotonic() - began,
            expires_at_s=renewed.expires_at_s,
            answered_at_s=time(),
        )

    async def _borrow(self) -> dict[TcpAddress, Circuit]:
        """A circuit from us to us at each relay that was reached: it names the UDP ports."""
        other = KeyPair.generate().peer_id
        lent: dict[TcpAddress, Circuit] = {}

        async def borrow(relay: TcpAddress) -> None:
            with contextlib.suppress(PieceworkError):
                circuit = await self._borrowed.allocate(relay, other, timeout_s=CIRCUIT_TIMEOUT_S)
                if _literal(circuit.host):  # a name would be looked up while all else waits
                    lent[relay] = circuit
                else:
                    await circuit.close()

        await asyncio.gather(*(borrow(each.relay) for each in self.reports if not each.reason))
        return lent

    async def _round_trips_s(self) -> dict[TcpAddress, float | None]:
        """Over UDP; None where it does not pass."""
        took = await asyncio.gather(*map(_round_trip_s, self._circuits.values()))
        return dict(zip(self._circuits, took, strict=True))

    async def _nat(self, mapping: PortMappingObservation) -> NatType | None:
        """None if there is no reflector to ask."""
        circuits = [circuit for circuit in self._circuits.values() if ":" not in circuit.host]
        if not circuits:
            return None
        observed = await observe_nat(
            [ReflectorPorts(circuit.host, circuit.grant.ports) for circuit in circuits],
            tcp_answers=True,
            router_outside=mapping.router_outside,
        )
        return classify(observed)

    def _ipv6(self) -> Ipv6Observation:
        """From what the relays with IPv6 answered; not even TCP passing says the same as UDP."""
        has_address = any(_is_global_ipv6(host) for host in local_hosts("::"))
        reports = [report for report in self.reports if ":" in report.relay.host]
        answers = any(report.round_trip_s is not None for report in reports)
        return Ipv6Observation(has_address, answers if reports else None)


async def _round_trip_s(circuit: Circuit) -> float | None:
    return await reflect_rtt_s(ReflectorPorts(circuit.host, circuit.grant.ports))


async def _port_mapping() -> PortMappingObservation:
    """Asks the router what it is, and opens nothing."""

    async def by_nat_pmp() -> str:
        gateway = await default_gateway()
        return await nat_pmp.outside_address(gateway) if gateway else ""

    async def ask(name: str, way: Callable[[], Awaitable[str]]) -> PortMappingObservation | None:
        with contextlib.suppress(PieceworkError):
            if outside := _literal(await way()):
                return PortMappingObservation(name, outside)
        return None

    found = await asyncio.gather(ask("NAT-PMP", by_nat_pmp), ask("UPnP", upnp.outside_address))
    return found[0] or found[1] or PortMappingObservation()


def _reason(error: PieceworkError) -> str:
    """The short of it: which relay was dialled is said anyway."""
    if isinstance(error, DialFailed) and error.attempts:
        return error.attempts[-1].reason
    return error.message


def _literal(host: str) -> str:
    """Routers and relays may say anything; only an address is believed to be one."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    return "" if address.is_unspecified else str(address)


def _is_global_ipv6(host: str) -> bool:
    address = ipaddress.ip_address(host)
    return address.version == 6 and address.is_global
