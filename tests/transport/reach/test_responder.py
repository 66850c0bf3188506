"""What strangers may have of the called side of signalling, and how long."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from time import monotonic

import pytest

from protocol.reach import Candidate, CandidateKind, CircuitSide, Connect, NATHints, Sync
from tests.transport.control_hosts import read_all, until
from tests.transport.home_relay import settled_tasks
from tests.transport.reach_pair import FARAWAY, Node
from transport.control.base import ControlStream
from transport.control.testing import FakeControl
from transport.errors import StreamReset
from transport.reach.messages import REACH_PROTOCOL, expect, send
from transport.reach.responder import LINKS_PER_PEER_MAX, ReachResponder
from transport.reach.tunnel import TUNNEL_PROTOCOL

StartNode = Callable[..., Awaitable[Node]]


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


async def nothing(peer_id: object) -> None:
    """For a responder of its own."""
