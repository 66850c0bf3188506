"""Two hosts, their NATs and a relay in virtual time: datagrams are function calls, nothing sleeps.

The ten kinds of NAT behave as those of the laboratory: mapping, filtering and choice of ports.
"""

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from protocol.reach import Candidate, CandidateKind, Filtering, Mapping, NATHints
from transport.base import PathKind
from transport.paths.actions import PeerDead, SendProbe, UsePath, WantSignal
from transport.paths.holepunch import Punch
from transport.paths.manager import PathManager
from transport.paths.path_address import CircuitPath, PathAddress

Address = tuple[str, int]

LINK, KEY = b"linklink", bytes(range(32))
REFLECTORS: tuple[Address, ...] = (("198.51.100.1", 1), ("198.51.100.1", 2))


@dataclass
class NAT:
    """One translating box. `ports` names how a new mapping's port is chosen."""

    ip: str
    mapping: str = "independent"
    filtering: str = "port"
    ports: str = "keep"
    dice: random.Random = field(default_factory=lambda: random.Random(1))
    step: int = 1
    translates: bool = True

    def __post_init__(self) -> None:
        self.forget()
        self.sequence = 40_000

    def forget(self) -> None:
        """A reboot."""
        self.out: dict[object, Address] = {}
        self.back: dict[Address, Address] = {}
        self.allowed: dict[Address, set[Address]] = {}

    def outgoing(self, source: Address, target: Address) -> Address:
        key: object = source if self.mapping == "independent" else (source, target)
        if key not in self.out:
            outside = (self.ip, self.new_port(source[1])) if self.translates else source
            self.out[key] = outside
            self.back[outside] = source
        outside = self.out[key]
        self.allowed.setdefault(outside, set()).add(target)
        return outside

    def incoming(self, source: Address, target: Address) -> Address | None:
        inside = self.back.get(target)
        if not self.translates and self.filtering == "open":
            return target
        if inside is None:
            return None
        allowed = self.allowed[target]
        if self.filtering == "open" or source in allowed:
            return inside
        is_known_host = any(source[0] == host for host, _ in allowed)
        return inside if self.filtering == "address" and is_known_host else None

    def new_port(self, wanted: int) -> int:
        taken = {port for _, port in self.back}
        if self.ports == "sequential":
            self.sequence += self.step
            return self.sequence
        if self.ports == "keep" and wanted not in taken:
            return wanted
        first, size = {"remap": (20_000, 4000), "narrow": (30_000, 64)}.get(
            self.ports, (1024, 64_000)
        )
        return next(p for p in iter(lambda: first + self.dice.randrange(size), 0) if p not in taken)


def nats(kind: str, site: int, seed: int = 1) -> list[NAT] | None:
    """The boxes from a host to the internet; None if UDP does not get out."""
    ip, dice = f"203.0.113.{site}", random.Random(f"{kind} {site} {seed}")
    match kind:
        case "none":
            return []
        case "firewall":
            return [NAT(ip, translates=False)]
        case "full-cone":
            return [NAT(ip, filtering="open")]
        case "restricted-cone":
            return [NAT(ip, filtering="address")]
        case "port-restricted":
            return [NAT(ip)]
        case "port-restricted-remap":
            return [NAT(ip, ports="remap", dice=dice)]
        case "symmetric":
            return [NAT(ip, "dependent", ports="any", dice=dice)]
        case "symmetric-narrow":
            return [NAT(ip, "dependent", ports="narrow", dice=dice)]
        case "sequential":
            return [NAT(ip, "dependent", ports="sequential", step=dice.choice((1, 2, 5)))]
        case "cgnat":
            return [NAT(f"100.64.0.{site}"), NAT(ip, ports="remap", dice=dice)]
        case _:
            assert kind == "udp-blocked"
            return None


class World:
    """The wires and the clock. `dead` addresses and circuits swallow what is sent to them."""

    def __init__(self, delay_s: float = 0.02) -> None:
        self.now = 100.0
        self.delay_s = delay_s
        self.ends: list[End] = []
        self.dead: set[PathAddress] = set()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), event))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let that much time go by, or less; whether `until` came true."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, event = heapq.heappop(self._events)
            event()
            if until():
                return True
        self.now = end
        return until()

    def send(self, sender: "End", data: bytes, path: PathAddress) -> None:
        if path in self.dead:
            return
        if isinstance(path, CircuitPath):
            self.deliver(sender.other, data, path)
            return
        assert isinstance(path, tuple)
        target: Address = path[0], path[1]
        source = sender.address
        for peer in self.ends:
            if peer is not sender and target == peer.address and peer.site == sender.site:
                self.deliver(peer, data, source)
                return
        if sender.nats is None:
            return
        for nat in sender.nats:
            source = nat.outgoing(source, target)
        for peer in self.ends:
            if peer is sender or peer.nats is None or peer.site == sender.site:
                continue
            inside: Address | None = target
            for nat in reversed(peer.nats):
                inside = None if inside is None else nat.incoming(source, inside)
            if inside == peer.address:
                self.deliver(peer, data, source)
                return

    def deliver(self, receiver: "End", data: bytes, source: PathAddress) -> None:
        if source not in self.dead:
            self.at(self.now + self.delay_s, lambda: receiver.receive(data, source))


class End:
    """One host: its address, its NATs, its path manager and its punch."""

    def __init__(self, world: World, site: int, boxes: list[NAT] | None, host: int = 2) -> None:
        self.world = world
        self.site = site
        self.nats = boxes
        is_public = boxes is not None and not any(nat.translates for nat in boxes)
        self.address: Address = (
            (f"203.0.113.{100 + site}", 4000 + site)
            if is_public
            else (f"192.168.{site}.{host}", 4000 + host)
        )
        self.manager = PathManager(
            LINK, KEY, is_initiator=not world.ends, random=lambda size: bytes(size)
        )
        self.punch: Punch | None = None
        self.uses: list[tuple[float, PathAddress]] = []
        self.wanted: list[str] = []
        self.dead_reason = ""
        self.is_asleep = False
        self.probe_count = 0
        self._turn = 0
        self._missed: list[tuple[bytes, PathAddress]] = []
        world.ends.append(self)

    @property
    def other(self) -> "End":
        return next(end for end in self.world.ends if end is not self)

    @property
    def path(self) -> PathAddress | None:
        return self.uses[-1][1] if self.uses else None

    def seen_by(self, reflector: Address) -> Address:
        """Where a reflector sees us; opens the mapping towards it."""
        address = self.address
        for nat in self.nats or ():
            address = nat.outgoing(address, reflector)
        return address

    def candidates(self) -> tuple[list[Candidate], NATHints]:
        if self.nats is None:
            return [Candidate(CandidateKind.LAN, *self.address)], NATHints(Mapping.BLOCKED)
        seen = [self.seen_by(reflector) for reflector in REFLECTORS]
        mapping = Mapping.INDEPENDENT if len(set(seen)) == 1 else Mapping.DEPENDENT
        if seen[0] == self.address:
            mapping = Mapping.NONE
        is_open = all(nat.filtering != "port" for nat in self.nats)
        filtering = Filtering.OPEN if is_open else Filtering.PORT_DEPENDENT
        hints = NATHints(mapping, filtering, tuple(port for _, port in seen))
        found = [
            Candidate(CandidateKind.LAN, *self.address),
            Candidate(CandidateKind.OBSERVED, *seen[-1]),
        ]
        return found, hints

    def receive(self, data: bytes, source: PathAddress) -> None:
        if self.is_asleep:
            self._missed.append((data, source))
            return
        if data.startswith(b"quic"):
            self.manager.on_heard(source, self.world.now)
            if data == b"quic?":
                self.quic(b"quic!")
        else:
            answered = self.manager.receive(data, source, self.world.now)
            if answered is not None and self.punch is not None and isinstance(source, tuple):
                self.punch.on_proved(answered.kind, str(source), self.world.now)
        self.pump()

    def quic(self, data: bytes = b"quic?") -> None:
        """Send something that the peer answers."""
        if self.path is not None and not self.is_asleep:
            self.world.send(self, data, self.path)
            self.manager.on_sent(self.world.now)
            self.pump()

    def talk(self, interval_s: float = 0.3) -> None:
        """Go on sending."""
        self.quic()
        if not self.dead_reason:
            self.world.at(self.world.now + interval_s, lambda: self.talk(interval_s))

    def add(self, path: PathAddress, kind: PathKind) -> None:
        self.manager.add_path(path, kind, self.world.now)
        self.pump()

    def sleep(self, seconds: float) -> None:
        """The process stops; its socket keeps what arrives."""
        self.is_asleep = True
        self.world.at(self.world.now + seconds, self.wake)

    def wake(self) -> None:
        self.is_asleep = False
        self.pump()  # timers come first, as with uvloop
        missed, self._missed = self._missed, []
        for data, source in missed:
            self.receive(data, source)

    def pump(self) -> None:
        if self.is_asleep:
            return
        now, due = self.world.now, math.inf
        if self.punch is not None:
            for target in self.punch.poll(now):
                self.probe_count += 1
                self.world.send(self, self.manager.make_probe(target, now), target)
            due = self.punch.next_timer()
        for action in self.manager.poll(now):
            match action:
                case SendProbe(path, datagram):
                    self.world.send(self, datagram, path)
                case UsePath(path):
                    self.uses.append((now, path))
                case WantSignal(reason):
                    self.wanted.append(reason)
                case PeerDead(reason):
                    self.dead_reason = reason
        self._turn += 1
        turn, due = self._turn, min(due, self.manager.next_timer(now))
        if due < math.inf:
            self.world.at(max(due, now + 0.001), lambda: self._on_timer(turn))

    def _on_timer(self, turn: int) -> None:
        if turn == self._turn:
            self.pump()


def punch(world: World) -> None:
    """Both ends exchange candidates and begin."""
    a, b = world.ends
    (own, own_hints), (peers, peer_hints) = a.candidates(), b.candidates()
    start = world.now + 0.1
    a.punch = Punch(own, peers, own_hints, peer_hints, start)
    b.punch = Punch(peers, own, peer_hints, own_hints, start + 0.03)
    a.pump()
    b.pump()
