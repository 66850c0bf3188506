"""Peers that cannot be dialled: signalling by a relay, circuits, punching, tunnels, their end."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic

import pytest

from protocol.identity import KeyPair
from protocol.reach import Candidate, CandidateKind, CircuitSide, Connect, NATHints, Sync
from transport.address import CircuitAddress, TcpAddress
from transport.base import PathKind
from transport.control_base import ControlStream
from transport.control_testing import FakeControl
from transport.errors import DialFailed, StreamReset
from transport.path_address import TunnelPath
from transport.reach_messages import REACH_PROTOCOL, expect, send
from transport.reach_responder import LINKS_PER_PEER_MAX, ReachResponder
from transport.tunnel import TUNNEL_PROTOCOL

from .conftest import ECHO
from .control_hosts import read_all, until
from .home_relay import HomeRelay, settled_tasks
from .reach_pair import FARAWAY, Node, echoed

StartNode = Callable[..., Awaitable[Node]]


@pytest.fixture
async def network() -> AsyncIterator[FakeControl]:
    made = FakeControl()
    yield made
    for host in made.hosts.values():
        await host.close()


@pytest.fixture
async def relay(network: FakeControl) -> AsyncIterator[HomeRelay]:
    made = HomeRelay(network)
    yield made
    await made.close()


@pytest.fixture
async def start(network: FakeControl) -> AsyncIterator[StartNode]:
    nodes: list[Node] = []

    async def start_node(*relays: HomeRelay, **options) -> Node:
        nodes.append(await Node.start(network, *relays, **options))
        return nodes[-1]

    yield start_node
    for node in nodes:
        await node.close()


class TestCircuit:
    async def test_carries_the_connection_where_nothing_else_does(self, start, relay):
        here, there = await start(), await start(relay)
        connection = await here.reach(there)
        assert connection.path_kind is PathKind.RELAYED
        assert await echoed(await connection.open_stream(ECHO), 512 * 1024)
        assert relay.circuit_count == 1
        assert relay.datagrams.forwarder.statistics().datagrams > 50

    async def test_is_left_for_a_direct_path_beneath_the_streams(self, start, relay):
        here, there = await start(tells="127.0.0.1"), await start(relay, tells="127.0.0.1")
        connection = await here.reach(there)
        stream = await connection.open_stream(ECHO)
        await until(lambda: connection.path_kind is PathKind.LAN)
        assert await echoed(stream, 256 * 1024)

    async def test_that_the_relay_refuses_leaves_punching(self, start, network):
        full = HomeRelay(network, circuits_max=1)
        here, there = await start(tells="127.0.0.1"), await start(full, tells="127.0.0.1")
        held = await here.relays.allocate(full.address, there.peer_id, timeout_s=1)
        connection = await here.reach(there)
        assert connection.path_kind is PathKind.LAN
        await held.close()
        await full.close()

    async def test_that_was_lost_is_replaced_in_the_next_round(self, start, relay):
        here, there = await start(), await start(relay)
        await here.reach(there)
        (old,) = here.reacher.links[0].link.circuits
        relay.datagrams.forwarder.release(old.path.circuit)
        await relay.forwarding.sweep()
        here.reacher.network_changed()
        await until(
            lambda: (
                [b.path for b in here.reacher.links[0].link.circuits] != [old.path]
                and len(there.reacher.links[0].link.circuits) == 1
                and there.reacher.links[0].link.circuits[0].path.circuit != old.path.circuit
            )
        )
        assert relay.circuit_count == 1


class TestEnd:
    async def test_of_the_connection_frees_everything_on_both_sides(self, start, relay):
        here, there = await start(), await start(relay)
        before = len(asyncio.all_tasks())
        connection = await here.reach(there)
        assert await echoed(await connection.open_stream(ECHO), 65_536)
        await connection.close()
        assert await settled_tasks(before) == 0
        assert here.reacher.links == there.reacher.links == ()
        await until(lambda: relay.circuit_count == 0)
        for node in (here, there):
            assert not [c for c in node.control.connections() if c.is_relayed]
            assert not [s for c in node.control.connections() for s in c.streams]
            assert node.quic.endpoint.connections() == ()

    async def test_of_one_link_leaves_the_control_connection_to_others(self, start, relay):
        here, there = await start(), await start(relay)
        first, second = await here.reach(there), await here.reach(there)
        await first.close()
        await until(lambda: len(here.reacher.links) == 1)
        assert [c for c in here.control.connections() if c.is_relayed]
        assert await echoed(await second.open_stream(ECHO), 65_536)
        await second.close()
        await until(lambda: not [c for c in here.control.connections() if c.is_relayed])

    async def test_of_a_dial_that_is_called_off_is_prompt(self, start, relay, network):
        here, there = await start(), await start(relay)
        network.delay_s = 5.0
        before = len(asyncio.all_tasks())
        dial = asyncio.create_task(here.reach(there))
        await asyncio.sleep(0.05)
        dial.cancel()
        await asyncio.gather(dial, return_exceptions=True)
        assert await settled_tasks(before, 0.5) == 0
        assert here.reacher.links == ()

    async def test_of_the_host_ends_links_under_way_and_refuses_new_ones(self, start, relay):
        here, there = await start(), await start(relay)
        await here.reach(there)
        await there.reacher.close()
        assert there.reacher.links == ()
        with pytest.raises(DialFailed):
            await here.reach(there)
        await here.reacher.close()
        with pytest.raises(DialFailed, match="closed"):
            await here.reach(there)


class TestFailure:
    async def test_peer_that_does_not_signal_is_told_at_once(self, start, relay):
        here, there = await start(), await start(relay)
        there.control.set_handler(REACH_PROTOCOL, None)
        began = monotonic()
        with pytest.raises(DialFailed, match="does not speak"):
            await here.reach(there)
        assert monotonic() - began < 1

    async def test_peer_without_a_slot_is_told_with_the_relays_reason(self, start, relay):
        here, there = await start(), await start()
        gone = CircuitAddress(relay.address, there.peer_id)
        with pytest.raises(DialFailed, match="gave no circuit"):
            await here.reacher.reach(there.peer_id, [gone], 5)

    async def test_no_relay_that_answers_names_every_attempt(self, start, network):
        here, there = await start(), await start()
        relays = [TcpAddress("203.0.113.9", port, KeyPair.generate().peer_id) for port in (1, 2)]
        nobody = [CircuitAddress(relay, there.peer_id) for relay in relays]
        with pytest.raises(DialFailed) as failed:
            await here.reacher.reach(there.peer_id, nobody, 5)
        assert len(failed.value.attempts) == 2

    async def test_dead_relay_is_passed_over_and_the_circuit_is_the_other_ones(
        self, start, relay, network
    ):
        dead = HomeRelay(network)
        here, there = await start(), await start(dead, relay)
        addresses = there.addresses
        await network.kill(dead.host.peer_id)
        connection = await here.reacher.reach(there.peer_id, addresses, 5)
        assert connection.path_kind is PathKind.RELAYED
        assert relay.circuit_count == 1
        await dead.close()

    async def test_relay_that_dies_in_mid_signalling_fails_the_dial_with_a_reason(
        self, start, relay, network
    ):
        here, there = await start(), await start(relay)
        network.delay_s = 0.1
        dial = asyncio.create_task(here.reach(there))
        await asyncio.sleep(0.5)
        assert here.reacher.links
        assert not dial.done()
        await network.kill(relay.host.peer_id)
        with pytest.raises(DialFailed):
            await dial
        await until(lambda: here.reacher.links == ())

    async def test_connection_that_dies_under_the_first_round_is_dialled_anew(
        self, start, relay, network
    ):
        here, there = await start(), await start(relay)
        serve = there.control.handlers._handlers[REACH_PROTOCOL]

        async def die(stream: ControlStream) -> None:
            there.control.set_handler(REACH_PROTOCOL, serve)
            (relayed,) = (c for c in there.control.connections() if c.is_relayed)
            await relayed.close()

        there.control.set_handler(REACH_PROTOCOL, die)
        connection = await here.reach(there)
        assert await echoed(await connection.open_stream(ECHO), 16_384)

    async def test_relay_that_dies_later_leaves_a_direct_connection_alone(
        self, start, relay, network
    ):
        here, there = await start(tells="127.0.0.1"), await start(relay, tells="127.0.0.1")
        connection = await here.reach(there)
        await until(lambda: connection.path_kind is PathKind.LAN)
        await network.kill(relay.host.peer_id)
        relay.datagrams.close()
        assert await echoed(await connection.open_stream(ECHO), 262_144)


class TestRounds:
    async def test_one_asked_for_by_the_called_side_punches_again_on_both(self, start, relay):
        here, there = await start(), await start(relay)
        await here.reach(there)
        ours, theirs = here.reacher.links[0].link, there.reacher.links[0].link
        await until(lambda: len(ours.punches) == len(theirs.punches) == 1)
        theirs.network_changed()
        await until(lambda: len(ours.punches) == len(theirs.punches) == 2)

    async def test_go_on_over_a_new_stream_when_the_old_one_was_lost(self, start, relay):
        here, there = await start(), await start(relay)
        connection = await here.reach(there)
        (relayed,) = (c for c in here.control.connections() if c.is_relayed)
        await relayed.close()
        here.reacher.network_changed()
        theirs = there.reacher.links[0].link
        await until(lambda: len(theirs.punches) == 2)
        assert await echoed(await connection.open_stream(ECHO), 16_384)


class TestTunnel:
    @pytest.fixture
    def without_udp(self, network: FakeControl) -> HomeRelay:
        return HomeRelay(network, has_udp=False)

    async def test_carries_two_megabytes_whole_where_udp_does_not_pass(self, start, without_udp):
        here, there = await start(), await start(without_udp)
        before = len(asyncio.all_tasks())
        connection = await here.reach(there)
        assert isinstance(here.reacher.links[0].link.path, TunnelPath)
        assert await echoed(await connection.open_stream(ECHO), 2 * 1024 * 1024)
        await connection.close()
        assert await settled_tasks(before) == 0
        for node in (here, there):
            assert not [s for c in node.control.connections() for s in c.streams]

    async def test_is_opened_at_once_where_udp_is_known_to_be_blocked(self, start, relay):
        here, there = await start(), await start(relay)
        relay.datagrams.close()
        began = monotonic()
        connection = await here.reach(there)
        assert monotonic() - began < 1.4
        assert await echoed(await connection.open_stream(ECHO), 65_536)

    async def test_that_ends_is_opened_again_in_the_next_round(self, start, relay):
        here, there = await start(), await start(relay)
        relay.datagrams.close()
        connection = await here.reach(there)
        stream = await connection.open_stream(ECHO)
        assert await echoed(stream, 16_384)
        old = here.reacher.links[0].link.path
        there.reacher.links[0].remove_tunnel("for the test")
        await until(lambda: here.reacher.links[0].link.path not in (old, None))
        assert await echoed(stream, 65_536)


class Stranger:
    """A peer who speaks the reach protocol by hand, over a direct control connection."""

    def __init__(self, network: FakeControl, node: Node) -> None:
        self.host = network.host()
        self.node = node
        self.link, self.key = os.urandom(8), os.urandom(32)

    async def stream(self, protocol: str = REACH_PROTOCOL) -> ControlStream:
        connection = await self.host.connect(self.node.control.addresses[0], timeout_s=1)
        return await connection.open_stream(protocol, timeout_s=1)

    def message(self, number: int = 0, *, circuits=(), link: bytes = b"") -> Connect:
        candidate = Candidate(CandidateKind.LAN, FARAWAY, 9)
        return Connect(number, link or self.link, self.key, NATHints(), (candidate,), circuits)

    async def call(self, *, link: bytes = b"", circuits=()) -> ControlStream:
        stream = await self.stream()
        await send(stream, self.message(link=link, circuits=circuits))
        await expect(stream, Connect, timeout_s=1)
        return stream


class TestStrangers:
    @pytest.fixture
    async def node(self, start: StartNode) -> Node:
        return await start(listens=True)

    @pytest.fixture
    def stranger(self, network: FakeControl, node: Node) -> Stranger:
        return Stranger(network, node)

    async def test_have_no_more_links_than_a_peer_may_and_the_oldest_goes(self, node, stranger):
        links = [os.urandom(8) for _ in range(LINKS_PER_PEER_MAX + 2)]
        streams = [await stranger.call(link=link) for link in links]
        await until(lambda: len(node.reacher.links) == LINKS_PER_PEER_MAX)
        assert [reach.link.link_id for reach in node.reacher.links] == links[2:]
        assert await streams[0].read(1) == b""

    async def test_have_no_more_links_together_than_the_host_keeps(self, node, network):
        responder = ReachResponder(
            node.probing, node.whereabouts, lambda: None, nothing, links_max=3
        )
        node.control.set_handler(REACH_PROTOCOL, responder.serve)
        strangers = [Stranger(network, node) for _ in range(5)]
        for each in strangers:
            await each.call()
        await until(lambda: len(responder.links) == 3)
        peers = [reach.link.peer_id for reach in responder.links]
        assert peers == [each.host.peer_id for each in strangers[2:]]
        await responder.close()

    async def test_who_say_nothing_are_let_go(self, node, stranger):
        responder = ReachResponder(
            node.probing, node.whereabouts, lambda: None, nothing, first_message_timeout_s=0.1
        )
        node.control.set_handler(REACH_PROTOCOL, responder.serve)
        node.control.set_handler(TUNNEL_PROTOCOL, responder.serve_tunnel)
        for protocol in (REACH_PROTOCOL, TUNNEL_PROTOCOL):
            with pytest.raises(StreamReset):
                await (await stranger.stream(protocol)).read(1)
        await responder.close()

    async def test_who_never_connect_lose_their_link(self, node, stranger):
        responder = ReachResponder(
            node.probing, node.whereabouts, lambda: None, nothing, connection_timeout_s=0.2
        )
        node.control.set_handler(REACH_PROTOCOL, responder.serve)
        before = len(asyncio.all_tasks())
        stream = await stranger.call()
        assert await stream.read(1) == b""
        assert responder.links == ()
        assert await settled_tasks(before) == 0

    async def test_get_no_link_of_somebody_else(self, node, stranger, network):
        await stranger.call()
        other = Stranger(network, node)
        stream = await other.stream()
        await send(stream, other.message(link=stranger.link))
        with pytest.raises(StreamReset):
            await stream.read(1)
        (reach,) = node.reacher.links
        assert reach.link.peer_id == stranger.host.peer_id

    async def test_get_no_tunnel_for_a_link_that_is_not_theirs(self, node, stranger, network):
        await stranger.call()
        for peer, link in ((Stranger(network, node), stranger.link), (stranger, b"unknown!")):
            stream = await peer.stream(TUNNEL_PROTOCOL)
            await stream.write(link)
            with pytest.raises(StreamReset):
                await stream.read(1)
        assert not node.reacher.links[0].has_tunnel

    async def test_have_one_tunnel_a_link_however_many_they_open(self, node, stranger):
        await stranger.call()
        before = len(asyncio.all_tasks())
        streams = []
        for _ in range(10):
            streams.append(await stranger.stream(TUNNEL_PROTOCOL))
            await streams[-1].write(stranger.link)
        for stream in streams[:-1]:
            with pytest.raises(StreamReset):
                await read_all(stream)
        assert node.reacher.links[0].has_tunnel
        await until(lambda: len(asyncio.all_tasks()) <= before + 6)

    async def test_have_one_signalling_stream_a_link_the_newest(self, node, stranger):
        first = await stranger.call()
        second = await stranger.call()
        with pytest.raises(StreamReset):
            await first.read(1)
        await send(second, stranger.message(1))
        assert (await expect(second, Connect, timeout_s=1)).round == 1

    async def test_bind_no_more_circuits_than_one_message_names(self, node, stranger):
        def sides() -> tuple[CircuitSide, ...]:
            return tuple(
                CircuitSide("127.0.0.1", 9, os.urandom(8), 1, os.urandom(32)) for _ in range(2)
            )

        stream = await stranger.call(circuits=sides())
        for number in (1, 2):
            last = sides()
            await send(stream, stranger.message(number, circuits=last))
            await expect(stream, Connect, timeout_s=1)
        bound = {binding.path.circuit for binding in node.reacher.links[0].link.circuits}
        assert bound == {side.circuit for side in last}

    async def test_set_off_one_punch_a_round_however_often_they_sync(self, node, stranger):
        stream = await stranger.call()
        for _ in range(20):
            await send(stream, Sync(0))
        await send(stream, Sync(7))
        await send(stream, stranger.message(1))
        await expect(stream, Connect, timeout_s=1)
        assert len(node.reacher.links[0].link.punches) == 1

    async def test_begin_rounds_at_a_pace_of_ours(self, node, stranger):
        stream = await stranger.call()
        began = monotonic()
        for number in (1, 2):
            await send(stream, stranger.message(number))
        for _ in range(2):
            await expect(stream, Connect, timeout_s=2)
        assert monotonic() - began >= 0.38

    @pytest.mark.parametrize("first", [Sync(0), b"\0\0\0\3abc", b"\xff\xff\xff\xff"], ids=str)
    async def test_who_speak_out_of_turn_or_nonsense_are_reset(self, node, stranger, first):
        stream = await stranger.stream()
        if isinstance(first, bytes):
            await stream.write(first)
        else:
            await send(stream, first)
        with pytest.raises(StreamReset):
            await stream.read(1)
        assert node.reacher.links == ()

    async def test_in_the_last_round_of_all_break_nothing(self, node, stranger, caplog):
        stream = await stranger.stream()
        await send(stream, stranger.message(10_000))
        await expect(stream, Connect, timeout_s=1)
        node.reacher.links[0].link.network_changed()
        await until(lambda: True)
        await stream.reset()
        assert not [r for r in caplog.records if r.levelname == "ERROR"]

    async def test_as_called_peer_cannot_hold_a_round_for_ever(self, start, network, relay):
        """He answers with rounds that nobody asked for."""
        here, there = await start(), await start(relay)

        async def mislead(stream: ControlStream) -> None:
            theirs = await expect(stream, Connect, timeout_s=1)
            while True:
                await send(stream, Connect(9_999, theirs.link, theirs.key, NATHints(), ()))
                await asyncio.sleep(0.05)

        there.control.set_handler(REACH_PROTOCOL, mislead)
        with pytest.raises(DialFailed):
            await here.reach(there, timeout_s=0.5)
        await until(lambda: here.reacher.links == ())


async def nothing(peer_id: object) -> None:
    """For a responder of its own."""
