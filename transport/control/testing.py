"""`FakeControl`: control hosts in memory, with the real interface, for tests of everything above.

    control = FakeControl(delay_s=0.02)
    relay, home = control.relay(), control.host(listens=False)
    slot = await home.reserve(relay.addresses[0], timeout_s=5)
    connection = await control.host().connect(slot.address, timeout_s=5)

A relay grants slots and circuits without speaking circuit relay v2, and can be told to refuse; a
node without `listens` is reached only through one, as behind a NAT.
"""

import asyncio
import random
import time
from collections import Counter
from typing import Final

from protocol.errors import RemoteProtocolError
from protocol.identity import KeyPair, PeerId
from transport.address import Address, AnyAddress, CircuitAddress, TcpAddress
from transport.control.base import ControlHandler, ControlHost, Reservation
from transport.control.circuit_messages import Status, status_text
from transport.control.fake_link import FakeControlConnection, FakeControlStream
from transport.control.handlers import ControlHandlers
from transport.errors import Attempt, DialFailed, RelayRefused

__all__ = ["FakeControl", "FakeControlConnection", "FakeControlHost", "FakeControlStream"]

_PORT: Final = 4001
SLOT_S: Final = 3600


class FakeControl:
    """Owns its hosts; `seed` fixes their keys. Delays are one way, for every line."""

    def __init__(self, *, delay_s: float = 0.0, seed: int = 0) -> None:
        self.delay_s = delay_s
        self.hosts: dict[PeerId, FakeControlHost] = {}
        self.dials: Counter[AnyAddress] = Counter()
        """What was dialled, and how often; living connections that were reused do not count."""
        self._dice = random.Random(seed)
        self._cuts: set[frozenset[PeerId]] = set()

    def host(self, key: KeyPair | None = None, *, listens: bool = True) -> "FakeControlHost":
        return self._add(FakeControlHost(self, self._key(key), self._next_ip(), listens, 0))

    def relay(self, key: KeyPair | None = None, *, slots_max: int = 128) -> "FakeControlHost":
        """A host that grants slots and circuits."""
        return self._add(FakeControlHost(self, self._key(key), self._next_ip(), True, slots_max))

    def cut(self, one: PeerId, other: PeerId) -> None:
        """Nothing passes between the two; their connections, and circuits on them, end at once."""
        self._cuts.add(frozenset((one, other)))
        for connection in self._all_connections():
            if self.is_cut(connection):
                connection.end("Nothing was heard for 20 s.")

    def heal(self, one: PeerId, other: PeerId) -> None:
        self._cuts.discard(frozenset((one, other)))

    async def kill(self, peer_id: PeerId) -> None:
        """The host is gone, its connections and slots with it."""
        await self.hosts[peer_id].close()

    def why_unreachable(
        self, dialler: "FakeControlHost", address: TcpAddress | CircuitAddress
    ) -> str:
        """Empty, or why `dialler` gets no connection there."""
        if not isinstance(address, CircuitAddress):
            target = self.hosts.get(address.peer_id)
            if target is None or target.is_closed or address not in target.addresses:
                return "no answer"
            return "no answer" if self._is_between(dialler.peer_id, target.peer_id) else ""
        if reason := self.why_unreachable(dialler, address.relay):
            return f"could not reach the relay: {reason}"
        relay = self.hosts[address.relay.peer_id]
        if relay.circuit_refusal is not None:
            return f"the relay gave no circuit: {status_text(relay.circuit_refusal)}"
        if address.peer_id not in relay.slots:
            return f"the relay gave no circuit: {status_text(Status.NO_RESERVATION)}"
        if self._is_between(relay.peer_id, address.peer_id):
            return f"the relay gave no circuit: {status_text(Status.CONNECTION_FAILED)}"
        return ""

    def join(
        self,
        dialler: "FakeControlHost",
        target: "FakeControlHost",
        relay: "FakeControlHost | None",
    ) -> FakeControlConnection:
        delay_s = self.delay_s * (1 if relay is None else 2)
        near = FakeControlConnection(dialler, target, relay, delay_s)
        far = FakeControlConnection(target, dialler, relay, delay_s)
        near.twin, far.twin = far, near
        dialler.keep(near)
        target.keep(far)
        return near

    def is_cut(self, connection: FakeControlConnection) -> bool:
        near, far = connection.host.peer_id, connection.peer_id
        if connection.relay is None:
            return self._is_between(near, far)
        return any(self._is_between(connection.relay.peer_id, end) for end in (near, far))

    def _is_between(self, one: PeerId, other: PeerId) -> bool:
        return frozenset((one, other)) in self._cuts

    def _all_connections(self) -> list[FakeControlConnection]:
        return [c for host in self.hosts.values() for c in host.connections()]

    def _add(self, host: "FakeControlHost") -> "FakeControlHost":
        self.hosts[host.peer_id] = host
        return host

    def _key(self, key: KeyPair | None) -> KeyPair:
        return key or KeyPair(self._dice.randbytes(32))

    def _next_ip(self) -> str:
        index = len(self.hosts)
        return f"203.0.{index // 250}.{1 + index % 250}"


class FakeControlHost(ControlHost):
    """Made by `FakeControl.host` and `FakeControl.relay`."""

    def __init__(
        self, control: FakeControl, key: KeyPair, ip: str, listens: bool, slots_max: int
    ) -> None:
        self.handlers = ControlHandlers()
        self.socket = f"{ip}:{_PORT}"
        self.is_closed = False
        self.slots: dict[PeerId, FakeControlConnection] = {}
        """Of a relay: who holds a slot, and by which connection; lost with it."""
        self.slot_refusal: Status | None = None if slots_max else Status.RESERVATION_REFUSED
        self.circuit_refusal: Status | None = None
        """Of a relay: set either, and it says no with that status."""
        self._control = control
        self._peer_id = key.peer_id
        self._addresses = (TcpAddress(ip, _PORT, key.peer_id),) if listens else ()
        self._slots_max = slots_max
        self._connections: list[FakeControlConnection] = []

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    @property
    def addresses(self) -> tuple[TcpAddress, ...]:
        return self._addresses

    def set_handler(self, protocol: str, handler: ControlHandler | None) -> None:
        self.handlers.set(protocol, handler)

    async def connect(self, address: AnyAddress, *, timeout_s: float) -> FakeControlConnection:
        if isinstance(address, Address):
            raise RemoteProtocolError(f"{address} is the data socket's, not the control plane's.")
        if living := self._living(address):
            return living
        control = self._control
        control.dials[address] += 1
        wait_s = min(timeout_s, 2 * control.delay_s)
        await asyncio.sleep(wait_s)
        reason = control.why_unreachable(self, address)
        if 2 * control.delay_s > timeout_s or self.is_closed:
            reason = "no answer in time"
        if reason:
            attempt = Attempt(str(address), reason, wait_s)
            raise DialFailed(str(address.peer_id), (attempt,))
        relay = None
        if isinstance(address, CircuitAddress):
            await self.connect(address.relay, timeout_s=timeout_s)
            relay = control.hosts[address.relay.peer_id]
        target = control.hosts[address.peer_id]
        return self._living(address) or control.join(self, target, relay)

    def connections(self) -> tuple[FakeControlConnection, ...]:
        return tuple(self._connections)

    async def reserve(self, relay: TcpAddress, *, timeout_s: float) -> Reservation:
        connection = await self.connect(relay, timeout_s=timeout_s)
        wait_s = min(timeout_s, 2 * self._control.delay_s)
        await asyncio.sleep(wait_s)
        if wait_s < 2 * self._control.delay_s:
            attempt = Attempt(str(relay), "no answer in time", wait_s)
            raise DialFailed(str(relay.peer_id), (attempt,))
        granter = self._control.hosts[relay.peer_id]
        refusal = granter.slot_refusal
        if self.peer_id not in granter.slots and len(granter.slots) >= granter._slots_max:
            refusal = refusal or Status.RESERVATION_REFUSED
        if refusal is not None:
            raise RelayRefused(
                f"The relay {relay} gave no slot: {status_text(refusal)}.", int(refusal)
            )
        granter.slots[self.peer_id] = connection
        expires_at_s = int(time.time()) + SLOT_S
        return Reservation(relay, CircuitAddress(relay, self.peer_id), expires_at_s, 0, 0)

    async def close(self) -> None:
        self.is_closed = True
        for connection in self.connections():
            await connection.close()
        await self.handlers.cancel()

    def keep(self, connection: FakeControlConnection) -> None:
        self._connections.append(connection)

    def forget(self, connection: FakeControlConnection) -> None:
        """A connection ended; slots and circuits that ran over it end too."""
        self._connections.remove(connection)
        if connection.is_relayed:
            return
        lost = connection.peer_id
        if self.slots.get(lost) in (connection, connection.twin):
            del self.slots[lost]
        for circuit in self.connections():
            if circuit.relay is not None and circuit.relay.peer_id == lost:
                circuit.end("The connection to the relay ended.")

    def _living(self, address: TcpAddress | CircuitAddress) -> FakeControlConnection | None:
        relay = address.relay.peer_id if isinstance(address, CircuitAddress) else None
        for connection in reversed(self._connections):
            between = connection.relay.peer_id if connection.relay is not None else None
            if (connection.peer_id, between) == (address.peer_id, relay):
                return connection
        return None
