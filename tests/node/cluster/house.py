"""Clusters in memory: real gossip and agreement over a fake network, without engines."""

import asyncio
import contextlib
from dataclasses import dataclass, field

from node.cluster.agreement import Agreement
from node.cluster.follower import Follower
from node.cluster.gossip import Gossip
from node.cluster.handshake import ClusterSecret, derive_secret
from protocol.identity import KeyPair
from protocol.machine import MachineRecord, MachineState, Room
from protocol.route import Span
from transport.lan.discovery import Sighting
from transport.testing import FakeHost, FakeNetwork

MODEL = b"m" * 32
LAYERS = 8
NAME = derive_secret("home")


def room(layers: int, beside_end: int | None = None, with_ends: int | None = None) -> Room:
    beside_end = layers if beside_end is None else beside_end
    return Room(layers, beside_end, beside_end if with_ends is None else with_ends)


def record_of(key: KeyPair, name: str, **fields) -> MachineRecord:
    address = f"/ip4/192.0.2.1/udp/4001/quic-v1/p2p/{key.peer_id}"
    return MachineRecord(
        **{
            "peer_id": key.peer_id, "sequence": 1, "joined_at_ms": 1_000, "name": name,
            "version": "0", "addresses": (address,), "api_port": 0, "memory_bytes": 2**30,
            "backends": ("fake",), "model": "fake/model", "state": MachineState.WAITING,
            "done_percent": 0, "token_layers_per_s": 0, "rows_per_s": 0, "spread": False,
            "issued_at_s": 100, "expires_at_s": 115, "manifest_hash": MODEL, "room": room(LAYERS),
        }
        | fields
    )  # fmt: skip


@dataclass
class FakeMachine:
    """One machine: what it was told, and which spans it was given."""

    name: str
    host: FakeHost
    gossip: Gossip
    spans: list = field(default_factory=list)
    told: list = field(default_factory=list)
    task: asyncio.Task | None = None

    @property
    def peer_id(self):
        return self.host.peer_id

    @property
    def sighting(self):
        return Sighting(self.peer_id, self.host.addresses, "")

    @property
    def span(self) -> Span | None:
        plan = self.gossip.membership.own.plan
        return plan.span_of(self.peer_id) if plan else None

    @property
    def members(self) -> set[str]:
        return {record.name for record in self.gossip.records}


class House:
    """Machines by name. Every machine finds every other, as by mDNS, unless told otherwise."""

    def __init__(self, **network) -> None:
        self.network = FakeNetwork(delay_s=0.001, idle_timeout_s=20, **network)
        self.machines: dict[str, FakeMachine] = {}
        self._births = 0

    async def start(
        self, name: str, *, secret: ClusterSecret = NAME, finds: bool = True, **fields
    ) -> FakeMachine:
        self._births += 1
        key = KeyPair(name.encode().ljust(32, b"."))
        host = self.network.host(key)
        record = record_of(key, name, **{"joined_at_ms": 1_000 + self._births} | fields)
        told: list[str] = []
        machine = FakeMachine(name, host, Gossip(host, key, secret, record, tell=told.append))
        machine.told = told
        machine.gossip.start()
        follower = Follower(machine.gossip, Agreement(MODEL, LAYERS), machine.spans.append)
        machine.task = asyncio.create_task(follower.run())
        for other in self.machines.values() if finds else ():
            other.gossip.found(machine.sighting)
            machine.gossip.found(other.sighting)
        self.machines[name] = machine
        return machine

    async def kill(self, name: str) -> None:
        """As by power-off: nothing more comes from it, and nobody is told."""
        machine = self.machines.pop(name)
        await self.network.kill(machine.peer_id)
        machine.task.cancel()
        for task in list(machine.gossip._tasks):
            task.cancel()

    async def leave(self, name: str) -> None:
        machine = self.machines.pop(name)
        machine.task.cancel()
        await machine.gossip.close()
        await machine.host.close()

    def cut(self, these, those) -> None:
        for a in these:
            for b in those:
                self.network.cut(self.machines[a].peer_id, self.machines[b].peer_id)

    def heal(self, these, those) -> None:
        for a in these:
            for b in those:
                self.network.heal(self.machines[a].peer_id, self.machines[b].peer_id)

    @property
    def plans(self) -> set:
        return {machine.gossip.membership.own.plan for machine in self.machines.values()}

    @property
    def spans(self) -> dict[str, str]:
        """Who holds what by the plan that all follow."""
        (plan,) = self.plans
        if plan is None:
            return {}
        names = {m.peer_id: m.name for m in self.machines.values()}
        return {names.get(a.peer_id, "?"): str(a.span) for a in plan.assignments}

    async def close(self) -> None:
        for name in list(self.machines):
            await self.leave(name)


@contextlib.asynccontextmanager
async def open_house(**network):
    house = House(**network)
    try:
        yield house
    finally:
        await house.close()
