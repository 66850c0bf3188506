"""`FakeNetwork`: hosts in memory, with the real interface, for tests of everything above.

    network = FakeNetwork(delay_s=0.02, loss=0.01, seed=7)
    head, hop = network.host(), network.host(nat=NAT.SYMMETRIC)
    connection = await head.connect(hop.peer_id, hop.addresses, timeout_s=5)

NATs decide who can connect to whom, as measured over real ones; delay and loss decide when frames
arrive (a loss is a retransmission, so later, never not at all). With `run_virtual` no test sleeps.
"""

import asyncio
import random
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from protocol.identity import KeyPair, PeerId
from transport.address import Address, AnyAddress
from transport.base import Host, PathKind, StreamHandler
from transport.errors import Attempt, DialFailed, PeerGone
from transport.fake_link import FakeConnection, FakeStream, Line
from transport.handlers import Handlers
from transport.virtual_clock import VirtualClockLoop, run_virtual

__all__ = [
    "NAT",
    "FakeConnection",
    "FakeHost",
    "FakeNetwork",
    "FakeStream",
    "VirtualClockLoop",
    "run_virtual",
]

_PORT: Final = 4001


class NAT(StrEnum):
    """What stands between a host and the others."""

    NONE = "none"
    FULL_CONE = "full_cone"
    PORT_RESTRICTED = "port_restricted"
    SYMMETRIC = "symmetric"
    UDP_BLOCKED = "udp_blocked"


_OPEN: Final = (NAT.NONE, NAT.FULL_CONE)
"""Reachable by whoever knows the address (a full cone once its mapping is open)."""


class FakeNetwork:
    """Owns its hosts and lines; `seed` fixes losses and keys."""

    def __init__(
        self,
        *,
        delay_s: float = 0.0,
        loss: float = 0.0,
        can_punch: bool = False,
        idle_timeout_s: float = 20.0,
        seed: int = 0,
    ) -> None:
        """`can_punch`: whether two filtering NATs meet by hole punching, where theory allows."""
        self.dice = random.Random(seed)
        self.idle_timeout_s = idle_timeout_s
        self.can_punch = can_punch
        self.hosts: dict[PeerId, FakeHost] = {}
        self.frame_count = self.byte_count = self.dial_count = self.dial_failed_count = 0
        self._default = (delay_s, loss)
        self._lines: dict[frozenset[PeerId], Line] = {}

    def host(self, key: KeyPair | None = None, *, nat: NAT = NAT.NONE, lan: str = "") -> "FakeHost":
        """A new host. Hosts with the same non-empty `lan` reach each other behind any NAT."""
        key = key or KeyPair(self.dice.randbytes(32))
        index = len(self.hosts)
        host = FakeHost(self, key, nat, lan, f"198.51.{index // 250}.{1 + index % 250}")
        self.hosts[host.peer_id] = host
        return host

    def line(self, a: PeerId, b: PeerId) -> Line:
        """The line between two hosts; its fields may be changed at any time."""
        return self._lines.setdefault(frozenset((a, b)), Line(*self._default))

    def cut(self, a: PeerId, b: PeerId) -> None:
        """Nothing gets through; both ends notice after the idle timeout, unless healed before."""
        line = self.line(a, b)
        line.is_cut = True
        line.cut_count += 1
        for connection in self._between(a, b):
            asyncio.get_running_loop().call_later(
                self.idle_timeout_s, self._end_if_still_cut, connection, line.cut_count
            )

    def heal(self, a: PeerId, b: PeerId) -> None:
        line = self.line(a, b)
        line.is_cut = False
        held, line.held = line.held, []
        for arrive in held:
            arrive()

    async def kill(self, peer_id: PeerId, *, silent: bool = True) -> None:
        """The host is gone: by power-off (others notice late) or with a goodbye (at once)."""
        host = self.hosts[peer_id]
        if not silent:
            await host.close()
            return
        for connection in host.connections():
            self.cut(peer_id, connection.peer_id)
        host.is_alive = False
        await host.handlers.cancel()

    def why_unreachable(self, dialler: "FakeHost", target: "FakeHost") -> str:
        """Empty, or why `dialler` cannot open a direct connection now."""
        kinds = {dialler.nat, target.nat}
        if not target.is_alive or self.line(dialler.peer_id, target.peer_id).is_cut:
            return "no answer"
        if dialler.lan and dialler.lan == target.lan:
            return ""
        if NAT.UDP_BLOCKED in kinds:
            return "UDP is blocked"
        if target.nat in _OPEN:
            return ""
        if not self.can_punch:
            return f"no answer (the peer is behind a {target.nat} NAT)"
        if dialler.nat in _OPEN or kinds == {NAT.PORT_RESTRICTED}:
            return ""
        return f"punching failed ({dialler.nat} to {target.nat})"

    def count_frame(self, size: int) -> None:
        self.frame_count += 1
        self.byte_count += size

    def _between(self, a: PeerId, b: PeerId) -> list[FakeConnection]:
        ends = ((a, b), (b, a))
        return [c for h, p in ends for c in self.hosts[h].connections() if c.peer_id == p]

    def _end_if_still_cut(self, connection: FakeConnection, cut_count: int) -> None:
        line = connection.line
        if line.is_cut and line.cut_count == cut_count:
            connection.end(PeerGone(f"Nothing was heard for {self.idle_timeout_s:g} s."))


class FakeHost(Host):
    """Made by `FakeNetwork.host`."""

    def __init__(
        self, network: FakeNetwork, key: KeyPair, nat: NAT, lan: str, address: str
    ) -> None:
        self.network = network
        self.nat = nat
        self.lan = lan
        self.is_alive = True
        self.handlers = Handlers()
        self._peer_id = key.peer_id
        self._address = Address(address, _PORT, key.peer_id)
        self._connections: list[FakeConnection] = []

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    @property
    def addresses(self) -> tuple[Address, ...]:
        return (self._address,)

    def set_handler(self, protocol: str, handler: StreamHandler | None) -> None:
        self.handlers.set(protocol, handler)

    def connections(self) -> tuple[FakeConnection, ...]:
        return tuple(self._connections)

    async def connect(
        self, peer_id: PeerId, addresses: Sequence[AnyAddress], *, timeout_s: float
    ) -> FakeConnection:
        if living := self._living(peer_id):
            return living
        network = self.network
        network.dial_count += 1
        target = network.hosts.get(peer_id)
        reason = "no address known"
        if target is not None and addresses:
            reason = network.why_unreachable(self, target)
            if not any(a in target.addresses for a in addresses):
                reason = "no answer"
        if target is None or reason:
            await asyncio.sleep(timeout_s)
            network.dial_failed_count += 1
            tried = tuple(Attempt(str(a), reason, timeout_s) for a in addresses)
            raise DialFailed(str(peer_id), tried)
        line = network.line(self.peer_id, peer_id)
        await asyncio.sleep(2 * line.delay_s)
        return self._living(peer_id) or self._join(target, line)

    async def close(self) -> None:
        for connection in self.connections():
            await connection.close()
        self.is_alive = False
        await self.handlers.cancel()

    def forget(self, connection: FakeConnection) -> None:
        self._connections.remove(connection)

    def _living(self, peer_id: PeerId) -> FakeConnection | None:
        return next((c for c in self._connections if c.peer_id == peer_id), None)

    def _join(self, target: "FakeHost", line: Line) -> FakeConnection:
        is_lan = bool(self.lan) and self.lan == target.lan
        kind = PathKind.LAN if is_lan else PathKind.DIRECT
        if not is_lan and target.nat not in _OPEN:
            kind = PathKind.PUNCHED
        near = FakeConnection(self, target, line, kind)
        far = FakeConnection(target, self, line, kind)
        near.twin, far.twin = far, near
        self._connections.append(near)
        target._connections.append(far)
        return near
