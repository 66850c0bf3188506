"""A relay for home hosts in tests: its control plane in memory, its UDP side real, on loopback."""

import asyncio
import contextlib
import dataclasses

from protocol.relay_messages import FORWARD_PROTOCOL, WHERE_PROTOCOL
from relay.datagrams import RelayDatagrams
from relay.forwarding import ForwardingService
from relay.requests import RequestGate
from relay.resources import Resources
from relay.where import WhereService
from transport.address import TcpAddress
from transport.control.testing import FakeControl


class HomeRelay:
    """Made on `network`; without `has_udp` it is a circuit relay of another make."""

    def __init__(
        self, network: FakeControl, *, has_udp: bool = True, circuits_max: int = 128
    ) -> None:
        self.network = network
        self.host = network.relay()
        self.datagrams: RelayDatagrams | None = None
        self.forwarding: ForwardingService | None = None
        if has_udp:
            self._serve(circuits_max)

    def _serve(self, circuits_max: int) -> None:
        resources = Resources()
        limits = dataclasses.replace(resources.forwarder, circuits_per_peer_max=circuits_max)
        resources = dataclasses.replace(resources, forwarder=limits)
        gate = RequestGate(resources.circuits)
        self.datagrams = RelayDatagrams.open(
            "127.0.0.1", (0, 0), resources, buffer_bytes=4 * 1024 * 1024
        )
        self.datagrams.start()
        ports = self.datagrams.ports
        self.forwarding = ForwardingService(
            self.datagrams.forwarder, gate, (resources.circuits, limits),
            host="127.0.0.1", ports=ports,
        )  # fmt: skip
        self.host.set_handler(FORWARD_PROTOCOL, self.forwarding.serve)
        where = WhereService(gate, host="127.0.0.1", ports=ports)
        self.host.set_handler(WHERE_PROTOCOL, where.serve)

    @property
    def address(self) -> TcpAddress:
        return self.host.addresses[0]

    @property
    def circuit_count(self) -> int:
        """At its forwarder."""
        assert self.datagrams is not None
        return self.datagrams.forwarder.statistics().circuits

    async def close(self) -> None:
        if not self.host.is_closed:
            await self.host.close()
        if self.forwarding is not None and self.datagrams is not None:
            self.forwarding.close()
            self.datagrams.close()


async def settled_tasks(before: int, timeout_s: float = 3.0) -> int:
    """How many tasks there are more than before, once it is none, or the time is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while len(asyncio.all_tasks()) > before:
                await asyncio.sleep(0.02)
    return max(0, len(asyncio.all_tasks()) - before)
