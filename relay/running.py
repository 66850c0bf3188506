"""A running relay: its parts, what they count, how they forget, and how they drain."""

import asyncio
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from relay.carrying import Carrier
from relay.circuits import CircuitService
from relay.config import RelayConfig
from relay.datagrams import RelayDatagrams
from relay.forwarding import ForwardingService
from relay.metrics import Counts, Fill
from relay.rendezvous import RendezvousService
from relay.requests import RequestGate
from relay.status import Identity
from transport.address import TcpAddress
from transport.control.base import ControlHost

__all__ = ["Relay", "announced"]

SWEEP_INTERVAL_S: Final = 5.0
"""How often what has expired is forgotten."""
DRAIN_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Relay:
    """A running relay's parts, for the page and for draining."""

    config: RelayConfig
    control: ControlHost
    datagrams: RelayDatagrams
    gate: RequestGate
    carrier: Carrier
    circuits: CircuitService
    forwarding: ForwardingService
    rendezvous: RendezvousService
    started_at: float

    @property
    def identity(self) -> Identity:
        return Identity(
            peer_id=str(self.control.peer_id),
            version=version("piecework"),
            addresses=tuple(map(str, announced(self.config, self.control))),
            udp_ports=self.datagrams.ports,
        )

    def counts(self) -> Counts:
        """What the status page and the metrics show."""
        forwarder, limits = self.datagrams.forwarder, self.config
        forwarded = forwarder.statistics()
        fills = (
            ("circuits.connections_max", len(self.control.connections()), limits.circuits),
            ("circuits.reservations_max", len(self.circuits.reservations), limits.circuits),
            ("circuits.circuits_max", self.circuits.circuits.count, limits.circuits),
            ("forwarder.circuits_max", forwarded.circuits, limits.forwarder),
            ("forwarder.peers_max", len(forwarder.usage), limits.forwarder),
            ("rendezvous.records_max", len(self.rendezvous.records), limits.rendezvous),
        )
        return Counts(
            uptime_s=time.monotonic() - self.started_at,
            is_draining=self.gate.is_draining,
            fills=tuple(
                Fill(limit, used, getattr(group, limit.partition(".")[2]))
                for limit, used, group in fills
            ),
            circuit_bytes=self.carrier.bytes_carried,
            circuits_ended={end.value: count for end, count in self.carrier.ends.items()},
            forwarded_bytes=forwarded.bytes,
            forwarded_datagrams=forwarded.datagrams,
            reflected=self.datagrams.reflector.answered,
            datagrams_dropped={why.value: count for why, count in forwarded.drops.items()},
            refused=dict(self.gate.refusals.counts),
        )

    async def drain(self) -> None:
        """Grant nothing new, and give circuits over TCP their time to end."""
        self.gate.is_draining = True
        until = time.monotonic() + self.config.drain_s
        while self.circuits.circuits.count and time.monotonic() < until:
            await asyncio.sleep(DRAIN_POLL_S)

    async def sweep(self) -> None:
        """Forget what has expired, every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            self.circuits.reservations.expire(time.monotonic())
            self.rendezvous.records.expire(time.time())
            await self.forwarding.sweep()


def announced(config: RelayConfig, control: ControlHost) -> tuple[TcpAddress, ...]:
    """Where nodes reach the control plane."""
    if not config.announce_host:
        return control.addresses
    ports = dict.fromkeys(address.port for address in control.addresses)
    return tuple(TcpAddress(config.announce_host, port, control.peer_id) for port in ports)
