"""Links over real sockets: a relay at once, better paths in parallel, and back when they die."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from time import monotonic

import pytest

from protocol.datagram import Probe, Probed
from protocol.reach import Candidate, CandidateKind, NATHints
from tests.transport.conftest import ECHO, StartHost
from tests.transport.wires import FakeRelay, NATPair
from transport.base import PathKind, Stream
from transport.errors import DialFailed, PeerGone
from transport.paths.forwarder_client import BindingState
from transport.paths.link import Link
from transport.paths.path_address import CircuitPath, TunnelPath
from transport.paths.probing import Probing
from transport.paths.state import PathStatus
from transport.quic.connection import QuicConnection
from transport.quic.host import QuicHost


class Pair:
    """Two hosts with a link, a relay between them, and NATs that may be punched."""

    def __init__(self, here: QuicHost, there: QuicHost) -> None:
        self.hosts = here, there
        self.probings = tuple(Probing(host.endpoint) for host in self.hosts)
        self.relay = FakeRelay()
        ports = [("127.0.0.1", host.endpoint.udp.port) for host in self.hosts]
        self.nats = NATPair(*ports)
        link_id, key = os.urandom(8), os.urandom(32)
        self.wanted: list[str] = []
        self.over: list[str] = []
        self.here, self.there = (
            Link(
                probing,
                link_id,
                key,
                peer.peer_id,
                is_initiator=is_initiator,
                on_want_signal=self.wanted.append,
                on_over=self.over.append,
            )
            for probing, peer, is_initiator in zip(
                self.probings, self.hosts[::-1], (True, False), strict=True
            )
        )

    @property
    def links(self) -> tuple[Link, Link]:
        return self.here, self.there

    def bind(self) -> None:
        circuit = self.relay.circuit()
        for side, link in enumerate(self.links):
            secret = self.relay.circuits[circuit][side].secret
            link.add_circuit(CircuitPath(self.relay.address, circuit), side, secret)

    def punch(self) -> None:
        own = [Candidate(CandidateKind.LAN, "127.0.0.1", 1)]
        peers = (self.nats.seen_by_a, self.nats.seen_by_b)
        for link, address in zip(self.links, peers, strict=True):
            candidate = Candidate(CandidateKind.OBSERVED, *address)
            link.punch(own, [candidate], NATHints(), NATHints(), monotonic() + 0.05)

    async def connect(self) -> tuple[QuicConnection, QuicConnection]:
        return await asyncio.gather(self.here.connect(5), self.there.wait_connection(5))

    async def until(self, kind: PathKind, timeout_s: float = 5.0) -> float:
        """Seconds until both ends send by such a path."""
        began = monotonic()
        async with asyncio.timeout(timeout_s):
            while any(
                link.connection is None or link.connection.path_kind is not kind
                for link in self.links
            ):
                await asyncio.sleep(0.01)
        return monotonic() - began

    def close(self) -> None:
        for link in self.links:
            link.close()
        self.relay.close()
        self.nats.close()


@pytest.fixture
async def pair(start_host: StartHost) -> AsyncIterator[Pair]:
    made = Pair(await start_host(), await start_host())
    yield made
    made.close()


async def echoes(stream: Stream, frame: bytes = b"hello") -> None:
    async with asyncio.timeout(5):
        await stream.send(frame)
        assert await stream.receive() == frame


class TestRelayed:
    async def test_begins_over_the_relay_when_nothing_else_answers(self, pair: Pair):
        pair.bind()
        connection, accepted = await pair.connect()
        assert connection.path_kind is accepted.path_kind is PathKind.RELAYED
        assert connection.remote.startswith("relay 127.0.0.1:")
        await echoes(await connection.open_stream(ECHO), os.urandom(100_000))
        await echoes(await accepted.open_stream(ECHO))
        assert pair.relay.forwarded_count > 100

    async def test_moves_to_the_direct_path_amid_a_transfer_and_loses_nothing(self, pair: Pair):
        pair.bind()
        connection, _ = await pair.connect()
        stream = await connection.open_stream(ECHO)
        frames = [os.urandom(200_000) for _ in range(30)]

        async def receive() -> None:
            for index, frame in enumerate(frames):
                assert await stream.receive() == frame
                if index == 5:
                    assert connection.path_kind is PathKind.RELAYED
                    pair.punch()

        async with asyncio.timeout(20):
            receiving = asyncio.create_task(receive())
            for frame in frames:
                await stream.send(frame)
            await receiving
        await pair.until(PathKind.LAN)
        used = pair.relay.forwarded_count
        await echoes(stream, os.urandom(300_000))
        assert pair.relay.forwarded_count - used < 10
        assert any("succeeded" in punch for punch in pair.here.punches)

    async def test_a_tunnel_carries_a_connection_where_udp_does_not(self, pair: Pair):
        here, there = (host.endpoint for host in pair.hosts)
        near, far = TunnelPath(1), TunnelPath(7)
        here.register_tunnel(near, lambda data: there.inject(data, far))
        there.register_tunnel(far, lambda data: here.inject(data, near))
        pair.here.add_path(near, PathKind.RELAYED)
        pair.there.add_path(far, PathKind.RELAYED)
        connection, accepted = await pair.connect()
        assert accepted.remote == "tunnel 7"
        stream = await connection.open_stream(ECHO)
        await echoes(stream, os.urandom(200_000))
        pair.bind()  # UDP through a relay is better than a tunnel
        async with asyncio.timeout(5):
            while not connection.remote.startswith("relay"):
                await asyncio.sleep(0.01)
        await echoes(stream, os.urandom(200_000))
        here.remove_tunnel(near)
        there.remove_tunnel(far)
        assert pair.hosts[0].endpoint.paths.unsendable_count == 0


class TestDirect:
    async def test_punched_path_is_used_from_the_beginning_without_a_relay(self, pair: Pair):
        pair.punch()
        connection, accepted = await pair.connect()
        assert connection.path.address == pair.nats.seen_by_a
        assert accepted.path.address == pair.nats.seen_by_b
        await echoes(await connection.open_stream(ECHO), os.urandom(100_000))

    async def test_falls_back_to_the_relay_even_if_that_lost_our_address(self, pair: Pair):
        """A NAT rebooted: the direct path is dead, and the relay sends to nobody until we bind."""
        pair.bind()
        pair.punch()
        connection, accepted = await pair.connect()
        await pair.until(PathKind.LAN)
        there = await accepted.open_stream(ECHO)
        stream = await connection.open_stream(ECHO)
        await echoes(stream)
        await echoes(there)
        pair.nats.is_cut = True
        for sides in pair.relay.circuits.values():
            sides[0].address = ("127.0.0.1", 9)
        began = monotonic()
        await asyncio.gather(echoes(stream, b"x" * 50_000), echoes(there, b"y" * 50_000))
        assert monotonic() - began < 5
        await pair.until(PathKind.RELAYED)
        assert "the direct path fell silent" in pair.wanted
        ended = [(r.kind, r.reason) for r in pair.here.reports if r.ended is not None]
        assert (PathKind.LAN, "silent") in ended
        assert {binding.state for binding in pair.here.circuits} == {BindingState.BOUND}

    @pytest.mark.parametrize("reboot", ["reboot_a", "reboot_b"])
    async def test_nat_of_either_side_reboots_under_a_living_stream(self, pair: Pair, reboot: str):
        pair.punch()
        connection, _ = await pair.connect()
        stream = await connection.open_stream(ECHO)
        await echoes(stream)
        getattr(pair.nats, reboot)()
        began = monotonic()
        if reboot == "reboot_b":  # the server's: it must send first, as its peer cannot reach it
            back = await pair.there.connection.open_stream(ECHO)
            await echoes(back)
        await echoes(stream, os.urandom(100_000))
        assert monotonic() - began < 2.5
        assert pair.here.connection.path.address == pair.nats.seen_by_a
        assert pair.there.connection.path.address == pair.nats.seen_by_b

    async def test_a_path_that_becomes_narrow_is_noticed(self, pair: Pair):
        pair.punch()
        connection, _ = await pair.connect()

        async def count(stream: Stream) -> None:
            while (frame := await stream.receive()) is not None:
                await stream.send(str(len(frame)).encode())

        pair.hosts[1].set_handler("/test/count/1", count)
        stream = await connection.open_stream("/test/count/1")
        pair.nats.bytes_max = 1500  # and loopback begins with 8900
        async with asyncio.timeout(5):
            await stream.send(bytes(100_000))
            assert await stream.receive() == b"100000"


class TestEnd:
    async def test_peer_of_whom_nothing_is_heard_is_gone(self, pair: Pair):
        pair.bind()
        connection, _ = await pair.connect()
        stream = await connection.open_stream(ECHO)
        await echoes(stream)
        pair.relay.is_cut = True
        began = monotonic()
        with pytest.raises(PeerGone, match="nothing was heard"):
            await stream.receive()
        assert monotonic() - began < 7
        assert "nothing was heard" in pair.here.over_reason

    async def test_link_ends_with_its_connection(self, pair: Pair):
        pair.bind()
        connection, _ = await pair.connect()
        await connection.close()
        async with asyncio.timeout(2):
            while len(pair.over) < 2:
                await asyncio.sleep(0.01)
        assert pair.here.connection is None

    async def test_no_path_is_told_with_every_attempt(self, pair: Pair):
        pair.relay.is_cut = True
        pair.bind()
        pair.nats.is_cut = True
        pair.punch()
        with pytest.raises(DialFailed, match="no path answered") as raised:
            await pair.here.connect(0.5)
        tried = {attempt.address.split()[0] for attempt in raised.value.attempts}
        assert tried == {"relay", "hole", "link"}


class TestStrangers:
    async def test_own_datagrams_of_strangers_move_nothing(self, pair: Pair):
        pair.bind()
        connection, _ = await pair.connect()
        stream = await connection.open_stream(ECHO)
        before = connection.remote
        dice = random.Random(7)
        target = ("127.0.0.1", pair.hosts[0].endpoint.udp.port)
        forged_key = bytes(32)
        nonce = os.urandom(8)
        with pair.nats.near_a.socket.dup() as stranger:
            for _ in range(300):
                kind = dice.randrange(0, 64)
                body = dice.randbytes(dice.choice((0, 8, 9, 18, 34, 40, 1200)))
                stranger.sendto(bytes([kind]) + body, target)
            for _ in range(20):
                stranger.sendto(Probe(pair.here.link_id, nonce).encode(forged_key), target)
                stranger.sendto(Probed(pair.here.link_id, nonce, 35).encode(forged_key), target)
                stranger.sendto(b"\x08" + dice.randbytes(60), target)
                stranger.sendto(b"\x09" + pair.here.link_id + b"short", target)
        await asyncio.sleep(0.1)
        counts = pair.probings[0].counts
        assert counts.malformed >= 20
        assert counts.unexpected
        assert pair.hosts[0].endpoint.counts.forwarded_dropped >= 20
        await echoes(stream)
        assert connection.remote == before
        assert [r.status for r in pair.here.reports] == [PathStatus.LIVE]
