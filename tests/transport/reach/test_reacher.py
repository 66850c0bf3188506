"""Peers that cannot be dialled: signalling by a relay, circuits, punching, tunnels, their end."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

import pytest

from protocol.identity import KeyPair
from protocol.reach import Connect, NATHints
from tests.transport.conftest import ECHO
from tests.transport.control_hosts import read_all, until
from tests.transport.home_relay import HomeRelay, settled_tasks
from tests.transport.reach_pair import Node, echoed
from transport.address import CircuitAddress, TcpAddress
from transport.base import PathKind
from transport.control.base import ControlStream
from transport.control.testing import FakeControl
from transport.errors import DialFailed
from transport.paths.path_address import TunnelPath
from transport.reach.messages import REACH_PROTOCOL, expect, send
from transport.reach.signalling import AGAIN_TIMEOUT_S

StartNode = Callable[..., Awaitable[Node]]


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

    async def test_called_peer_cannot_hold_a_round_for_ever(self, start, relay):
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

    async def test_that_carries_well_outlives_a_round_that_nobody_answers(self, start, relay):
        """Were the connection below given up with the stream, the only path would go with it."""
        here, there = await start(), await start(relay)
        relay.datagrams.close()
        stream = await (await here.reach(there)).open_stream(ECHO)
        link = here.reacher.links[0].link
        path = link.path

        async def mute(stream: ControlStream) -> None:
            await read_all(stream)

        # A newer stream for the link ends the one that is used; the next finds nobody.
        (relayed,) = (c for c in here.control.connections() if c.is_relayed)
        newer = await relayed.open_stream(REACH_PROTOCOL, timeout_s=1)
        await send(newer, Connect(0, link.link_id, bytes(32), NATHints(), ()))
        await expect(newer, Connect, timeout_s=1)
        there.control.set_handler(REACH_PROTOCOL, mute)
        here.reacher.network_changed()
        began = monotonic()
        while monotonic() - began < AGAIN_TIMEOUT_S + 0.2:
            assert await echoed(stream, 16_384)
            await asyncio.sleep(0.05)
        assert link.path == path
        assert not relayed.is_closed
