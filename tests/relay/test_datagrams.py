import asyncio
import gc
import random
import socket
import struct
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest

from protocol.datagram import Bind, Bound, Reflect, Reflected, forwarded
from protocol.identity import PeerId
from relay.datagrams import RelayDatagrams
from relay.forwarder import Grant
from relay.resources import ReflectorLimits, Resources
from relay.usage import DropReason
from tests.binding import with_cookie

SEED = 20_261_121
RESOURCES = Resources(
    reflector=ReflectorLimits(answers_per_host_per_s=1e6, answers_per_host_burst=10**6)
)
"""Tests ask the reflector often, to know when everything before has been handled."""
MIB = 1024 * 1024
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="UDP_SEGMENT and UDP_GRO are Linux")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Node:
    """A plain socket on loopback that knows the relay's address."""

    socket: socket.socket
    relay: tuple[str, int]

    @classmethod
    def make(cls, relay: RelayDatagrams, host: str = "127.0.0.1") -> "Node":
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * MIB)
        made.bind((host, 0))
        made.setblocking(False)
        return cls(made, (host, relay.ports[0]))

    def send(self, *datagrams: bytes, port: int = 0) -> None:
        for each in datagrams:
            self.socket.sendto(each, (self.relay[0], port or self.relay[1]))

    def send_merged(self, *datagrams: bytes) -> None:
        """In one call; the kernel keeps them together on loopback."""
        control = [(socket.IPPROTO_UDP, 103, struct.pack("H", len(datagrams[0])))]
        self.socket.sendmsg(datagrams, control, 0, self.relay)

    async def receive(self) -> tuple[bytes, int]:
        """The next datagram and the port it came from."""
        async with asyncio.timeout(5):
            data, source = await asyncio.get_running_loop().sock_recvfrom(self.socket, 65_535)
        return data, source[1]

    async def receive_all(self, count: int) -> list[bytes]:
        return [(await self.receive())[0] for _ in range(count)]

    def is_quiet(self) -> bool:
        try:
            self.socket.recv(1)
        except BlockingIOError:
            return True
        return False

    async def bind(self, grant: Grant, side: int, counter: int = 1, port: int = 0) -> Bound:
        asked, secret = Bind(grant.circuit, side, counter), grant.secrets[side]
        self.send(asked.encode(secret), port=port)
        cookie_for = (await self.receive())[0]
        self.send(with_cookie(asked, cookie_for).encode(secret), port=port)
        return Bound.decode((await self.receive())[0])


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def relay(clock) -> AsyncIterator[RelayDatagrams]:
    made = RelayDatagrams.open("127.0.0.1", (0, 0), RESOURCES, clock=clock)
    made.start()
    yield made
    made.close()


@pytest.fixture
async def nodes(relay) -> AsyncIterator[list[Node]]:
    made = [Node.make(relay) for _ in range(6)]
    yield made
    for each in made:
        each.socket.close()


async def circuit(relay: RelayDatagrams, near: Node, far: Node) -> Grant:
    """A circuit whose side 0 is `near` and side 1 `far`."""
    owner, other = (PeerId(random.randbytes(32)) for _ in range(2))
    grant = relay.forwarder.allocate(owner, other, relay._clock())
    await near.bind(grant, 0)
    assert (await far.bind(grant, 1)).is_other_bound
    return grant


def drops(relay: RelayDatagrams) -> dict[DropReason, int]:
    return dict(relay.forwarder.statistics().drops)


async def settle(relay: RelayDatagrams) -> None:
    """Until the relay has handled what was sent before."""
    probe = Node.make(relay)
    with probe.socket:
        probe.send(Reflect(bytes(8)).encode())
        await probe.receive()


class TestForward:
    async def test_a_datagram_goes_unchanged_to_the_other_side(self, relay, nodes):
        a, b, *_ = nodes
        grant = await circuit(relay, a, b)
        there, back = forwarded(grant.circuit, b"there"), forwarded(grant.circuit, b"back")
        a.send(there)
        assert await b.receive() == (there, relay.ports[0])
        b.send(back)
        assert (await a.receive())[0] == back

    async def test_random_sizes_in_several_flows_keep_order_and_boundaries(self, relay, nodes):
        """Singles and merged runs, two circuits a source, so reads hold every mixture."""
        draw = random.Random(SEED)
        sources, sinks = nodes[:3], nodes[3:]
        flows = [
            (source, sink, await circuit(relay, source, sink))
            for index, source in enumerate(sources)
            for sink in (sinks[index], sinks[(index + 1) % 3])
        ]
        sent: dict[bytes, list[bytes]] = {grant.circuit: [] for *_, grant in flows}
        got: dict[bytes, list[bytes]] = {grant.circuit: [] for *_, grant in flows}
        count = 0
        for _ in range(120):
            for _ in range(draw.randint(1, 8)):
                source, _, grant = draw.choice(flows)
                size = draw.choice([0, 1, 50, 1191, 1391, 2000])
                run = [
                    forwarded(grant.circuit, draw.randbytes(size))
                    for _ in range(draw.randint(1, 12))
                ]
                if size:
                    run.append(forwarded(grant.circuit, draw.randbytes(draw.randrange(size))))
                if draw.random() < 0.5 and sys.platform == "linux":
                    source.send_merged(*run)
                else:
                    source.send(*run)
                sent[grant.circuit] += run
                count += len(run)
            await settle(relay)
            for sink in sinks:
                while True:
                    try:
                        data = sink.socket.recv(65_535)
                    except BlockingIOError:
                        break
                    got[data[1:9]].append(data)
        assert got == sent, f"seed {SEED}"
        assert not drops(relay)
        assert relay.forwarder.statistics().datagrams == count

    @linux_only
    async def test_every_datagram_of_one_read_goes_its_own_way(self, relay, nodes):
        """Three circuits, a forged one, a BIND's length of noise and a stump, merged."""
        a, b, c, d, *_ = nodes
        grants = [await circuit(relay, a, each) for each in (b, c, d)]
        foreign = await circuit(relay, b, c)
        run = [
            forwarded(grant.circuit, bytes([index]) * 100)
            for index, grant in enumerate([*grants, grants[0], grants[0], foreign, grants[1]])
        ]
        run.insert(3, b"\x06" * 109)
        reads = relay.statistics()[0].reads
        a.send_merged(*run, b"\x08stump")
        await settle(relay)
        assert relay.statistics()[0].reads - reads == 2
        assert await b.receive_all(3) == [run[0], run[4], run[5]]
        assert await c.receive_all(2) == [run[1], run[7]]
        assert await d.receive_all(1) == [run[2]]
        assert drops(relay) == {DropReason.WRONG_SOURCE: 1, DropReason.MALFORMED: 2}

    @linux_only
    async def test_a_run_of_one_circuit_leaves_in_one_send(self, relay, nodes):
        a, b, *_ = nodes
        grant = await circuit(relay, a, b)
        sends = relay.statistics()[0].sends
        run = [forwarded(grant.circuit, bytes([index]) * 1391) for index in range(46)]
        a.send_merged(*run)
        assert await b.receive_all(46) == run
        assert relay.statistics()[0].sends - sends == 1

    async def test_a_forged_source_reaches_nobody(self, relay, nodes):
        a, b, stranger, *_ = nodes
        grant = await circuit(relay, a, b)
        stranger.send(forwarded(grant.circuit, b"let me in"))
        await settle(relay)
        assert a.is_quiet()
        assert b.is_quiet()
        assert drops(relay) == {DropReason.WRONG_SOURCE: 1}

    async def test_a_side_that_moves_is_found_again_and_its_old_address_is_nobody(
        self, relay, nodes
    ):
        a, b, moved, *_ = nodes
        grant = await circuit(relay, a, b)
        datagram = forwarded(grant.circuit, b"x")
        await moved.bind(grant, 0, counter=2)
        b.send(datagram)
        assert (await moved.receive())[0] == datagram
        a.send(datagram)
        a.send(Bind(grant.circuit, 0, 1).encode(grant.secrets[0]))
        await settle(relay)
        assert a.is_quiet()
        assert drops(relay) == {DropReason.WRONG_SOURCE: 1, DropReason.REPLAYED_BIND: 1}

    async def test_an_address_that_did_not_ask_is_told_a_cookie_and_forwarded_nothing(
        self, relay, nodes
    ):
        """What the relay sees of a BIND with the victim's address as its source."""
        a, b, victim, *_ = nodes
        grant = await circuit(relay, a, b)
        secret = grant.secrets[1]
        b.send(Bind(grant.circuit, 1, 2).encode(secret))
        cookie_of_b = Bound.decode((await b.receive())[0]).cookie
        for cookie in (bytes(8), cookie_of_b):
            victim.send(Bind(grant.circuit, 1, 3, cookie).encode(secret))
            answer = (await victim.receive())[0]
            assert len(answer) == 43
            assert not Bound.decode(answer).is_bound
        datagram = forwarded(grant.circuit, b"flood")
        a.send(datagram)
        assert (await b.receive())[0] == datagram
        assert victim.is_quiet()

    async def test_a_side_bound_at_the_other_port_is_sent_to_from_there(self, relay, nodes):
        a, b, *_ = nodes
        grant = await circuit(relay, a, b)
        await b.bind(grant, 1, counter=2, port=relay.ports[1])
        a.send(forwarded(grant.circuit, b"x"))
        assert (await b.receive())[1] == relay.ports[1]

    async def test_idle_circuits_end_by_the_relays_own_clock(self, relay, nodes, clock):
        a, b, *_ = nodes
        grant = await circuit(relay, a, b)
        clock.now = Resources().forwarder.idle_s
        relay._expire()
        a.send(forwarded(grant.circuit, b"x"))
        await settle(relay)
        assert drops(relay) == {DropReason.UNKNOWN_CIRCUIT: 1}


class TestReflect:
    async def test_both_ports_answer_and_each_for_the_other(self, relay, nodes):
        node = nodes[0]
        host, port = node.socket.getsockname()
        for index in (0, 1):
            for is_other in (False, True):
                node.send(Reflect(b"12345678", is_other).encode(), port=relay.ports[index])
                data, came_from = await node.receive()
                assert came_from == relay.ports[index ^ is_other]
                assert Reflected.decode(data) == Reflected(
                    b"12345678", host, port, is_other, has_other_port=True
                )

    async def test_a_relay_with_one_port_says_so(self, clock):
        relay = RelayDatagrams.open("127.0.0.1", (0,), Resources(), clock=clock)
        relay.start()
        node = Node.make(relay)
        node.send(Reflect(b"12345678", True).encode())
        assert not Reflected.decode((await node.receive())[0]).has_other_port
        relay.close()
        relay.close()
        node.socket.close()


async def test_ipv6_and_ipv4_nodes_share_a_circuit(clock):
    try:
        relay = RelayDatagrams.open("::", (0,), Resources(), clock=clock)
    except OSError:
        pytest.skip("no IPv6 here")
    relay.start()
    old, new = Node.make(relay), Node.make(relay, "::1")
    grant = await circuit(relay, old, new)
    run = [forwarded(grant.circuit, bytes(1391))] * 20
    old.send(*run)
    assert await new.receive_all(20) == run
    new.send(*run)
    assert await old.receive_all(20) == run
    new.send(Reflect(b"12345678").encode())
    assert Reflected.decode((await new.receive())[0]).host == "::1"
    relay.close()
    for each in (old, new):
        each.socket.close()


async def test_garbage_is_dropped_without_an_exception_an_answer_or_growth(relay, nodes, caplog):
    """20 000 datagrams: noise of all lengths, and noise that begins as ours do."""
    a, b, noisy, *_ = nodes
    grant = await circuit(relay, a, b)
    draw = random.Random(SEED)
    handled = relay.statistics()[0].datagrams_received

    async def send_garbage(count: int) -> None:
        for index in range(count):
            kind = bytes([draw.choice([4, 5, 6, 7, 8, 9, 10, 15, 64, 0xC0, draw.randrange(256)])])
            known = grant.circuit if draw.random() < 0.3 else b""
            noisy.send(
                (kind + known + draw.randbytes(draw.choice([0, 1, 8, 22, 26, 31, 34, 42, 1391])))
                if draw.random() < 0.95
                else b""
            )
            if index % 200 == 0:
                await asyncio.sleep(0)

    await send_garbage(10_000)
    await settle(relay)
    gc.collect()
    before = len(gc.get_objects())
    await send_garbage(10_000)
    await settle(relay)
    gc.collect()
    assert len(gc.get_objects()) - before < 1000
    counts = relay.statistics()[0]
    assert counts.datagrams_received + counts.empty_dropped - handled >= 20_000
    assert not caplog.records, f"seed {SEED}"
    assert a.is_quiet()
    assert b.is_quiet()
    datagram = forwarded(grant.circuit, b"still here")
    a.send(datagram)
    assert (await b.receive())[0] == datagram


async def test_a_flood_of_one_circuit_is_held_to_its_owners_rate(clock):
    limits = replace(Resources().forwarder, bytes_per_s_max=1000, burst_bytes=100_000)
    relay = RelayDatagrams.open(
        "127.0.0.1", (0,), replace(RESOURCES, forwarder=limits), clock=clock
    )
    relay.start()
    a, b = Node.make(relay), Node.make(relay)
    grant = await circuit(relay, a, b)
    a.send(*[forwarded(grant.circuit, bytes(991))] * 300)
    await settle(relay)
    counts = relay.forwarder.statistics()
    assert 100_000 <= counts.bytes < 250_000
    assert counts.drops == {DropReason.BYTES_PER_S_MAX: 300 - counts.datagrams}
    relay.close()
    for each in (a, b):
        each.socket.close()


async def test_a_taken_port_is_an_error_and_leaves_nothing_open(relay):
    with pytest.raises(OSError, match="in use"):
        RelayDatagrams.open("127.0.0.1", (0, relay.ports[0]), Resources())
