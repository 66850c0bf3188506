"""Calls to a peer that has a slot: what goes with them, and which of its connections is used."""

import asyncio

import pytest

from relay.calling import EARLY_BYTES_MAX
from relay.carrying import Carrier
from relay.circuits import CircuitService
from relay.requests import RequestGate
from relay.resources import CircuitLimits, ForwarderLimits
from relay.usage import UsageTable
from tests.relay.control_pair import RelayHost
from transport.control.circuit_messages import (
    HOP_PROTOCOL,
    HopMessage,
    HopType,
    Status,
    StopMessage,
    StopType,
    read_message,
    write_message,
)
from transport.errors import StreamReset

ACCEPT = StopMessage(StopType.STATUS, status=Status.OK)
REFUSE = StopMessage(StopType.STATUS, status=Status.PERMISSION_DENIED)
EARLY = b"the first message of a handshake"


class World:
    """The relay; a caller; and a called peer whose streams wait in `stops` to be answered."""

    def __init__(self, limits=None, rates=None):
        self.limits, rates = (
            limits or CircuitLimits(connect_timeout_s=5),
            rates or ForwarderLimits(),
        )
        self.host = RelayHost()
        self.usage = UsageTable(rates)
        self.service = CircuitService(
            self.host, self.limits, RequestGate(self.limits), Carrier(self.limits, rates),
            self.usage, tuple,
        )  # fmt: skip
        self.host.set_handler(HOP_PROTOCOL, self.service.serve)
        self.caller = self.host.join("caller")

    async def called(self, **how):
        """Connected, with a slot; again for a newer connection of the same peer."""
        peer = self.host.join("called", **how)
        peer.stops = asyncio.Queue()
        peer.on_stop = peer.stops.put
        stream = peer.ask(HOP_PROTOCOL)
        await write_message(stream, HopMessage(HopType.RESERVE))
        assert (await status_of(stream)) == Status.OK
        return peer

    async def call(self, called, early=EARLY):
        stream = self.caller.ask(HOP_PROTOCOL)
        await write_message(stream, HopMessage(HopType.CONNECT, peer=called.peer_id))
        if early:
            await stream.write(early)
        return stream


@pytest.fixture
async def world():
    worlds = []

    def make(*arguments):
        worlds.append(World(*arguments))
        return worlds[-1]

    yield make
    for each in worlds:
        await each.service.close()
        await each.host.close()


async def status_of(stream):
    return (await read_message(stream, HopMessage, timeout_s=5)).status


async def stopped(peer):
    """The relay's next call to `peer`, with CONNECT read off."""
    stream = await asyncio.wait_for(peer.stops.get(), 5)
    message = await read_message(stream, StopMessage, timeout_s=5)
    assert message.type is StopType.CONNECT
    return stream


async def read_exactly(stream, size):
    data = b""
    async with asyncio.timeout(5):
        while len(data) < size:
            more = await stream.read(size - len(data))
            assert more
            data += more
    return data


async def test_what_a_caller_sends_at_once_arrives_before_the_called_peer_has_accepted(world):
    relay = world()
    called = await relay.called()
    stream = await relay.call(called)
    other = await stopped(called)
    assert await read_exactly(other, len(EARLY)) == EARLY
    await write_message(other, ACCEPT)
    await other.write(b"answer")
    assert await status_of(stream) == Status.OK
    assert await read_exactly(stream, 6) == b"answer"
    await stream.write(b"more")
    assert await read_exactly(other, 4) == b"more"
    usage = relay.usage.statistics_of(relay.caller.peer_id)
    assert (usage.bytes_from, usage.bytes_to) == (len(EARLY) + 4, 6)
    assert usage.month_bytes == len(EARLY) + 4 + 6


async def test_before_that_only_a_little_is_passed_on_and_afterwards_all_of_it(world):
    relay = world()
    called = await relay.called()
    data = bytes(range(256)) * 1000
    stream = await relay.call(called, data)
    other = await stopped(called)
    assert await read_exactly(other, EARLY_BYTES_MAX) == data[:EARLY_BYTES_MAX]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await other.read(1)
    await write_message(other, ACCEPT)
    assert await status_of(stream) == Status.OK
    rest = len(data) - EARLY_BYTES_MAX
    assert await read_exactly(other, rest) == data[EARLY_BYTES_MAX:]


async def test_early_bytes_count_against_what_a_circuit_may_carry(world):
    relay = world(CircuitLimits(circuit_bytes_max=10))
    called = await relay.called()
    stream = await relay.call(called, b"0123456789A")
    other = await stopped(called)
    assert await read_exactly(other, 10) == b"0123456789"
    await write_message(other, ACCEPT)
    assert await status_of(stream) == Status.OK
    with pytest.raises(StreamReset):
        await asyncio.wait_for(other.read(1), 5)


async def test_nothing_is_passed_on_early_that_the_caller_may_not_have_carried(world):
    relay = world(CircuitLimits(), ForwarderLimits(month_bytes_max=len(EARLY) - 1))
    called = await relay.called()
    stream = await relay.call(called)
    other = await stopped(called)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await other.read(1)
    await write_message(other, ACCEPT)
    assert await status_of(stream) == Status.OK
    with pytest.raises(StreamReset):
        await asyncio.wait_for(stream.read(1), 5)


async def test_a_call_that_is_refused_is_answered_although_bytes_came_early(world):
    relay = world()
    called = await relay.called()
    stream = await relay.call(called)
    other = await stopped(called)
    await write_message(other, REFUSE)
    assert await status_of(stream) == Status.CONNECTION_FAILED
    assert await stream.read(1) == b""


async def test_a_caller_who_leaves_meanwhile_leaves_nothing_behind(world):
    relay = world()
    called = await relay.called()
    stream = await relay.call(called)
    other = await stopped(called)
    await stream.reset()
    await write_message(other, ACCEPT)
    with pytest.raises(StreamReset):
        await read_exactly(other, len(EARLY) + 1)
    async with asyncio.timeout(5):
        while relay.service.circuits.count:
            await asyncio.sleep(0.01)


async def test_a_pending_call_moves_to_a_newer_connection_with_all_that_was_sent(world):
    """A home router rebooted: the old connection is dead, and nobody has said so."""
    relay = world()
    before = await relay.called()
    stream = await relay.call(before)
    silent = await stopped(before)
    after = await relay.called(remote="203.0.113.8:6000")
    other = await stopped(after)
    assert await read_exactly(other, len(EARLY)) == EARLY
    await write_message(other, ACCEPT)
    assert await status_of(stream) == Status.OK
    await other.write(b"answer")
    assert await read_exactly(stream, 6) == b"answer"
    await stream.write(b"more")
    assert await read_exactly(other, 4) == b"more"
    assert silent.is_reset
    assert not before.is_closed


async def test_calls_after_that_use_the_newer_connection_and_outlive_the_older(world):
    relay = world()
    before = await relay.called()
    after = await relay.called(remote="203.0.113.8:6000")
    await before.close()
    await asyncio.sleep(0)
    stream = await relay.call(after)
    await write_message(await stopped(after), ACCEPT)
    assert await status_of(stream) == Status.OK
    assert before.stops.empty()


async def test_a_renewal_on_the_same_connection_disturbs_no_call(world):
    relay = world()
    called = await relay.called()
    stream = await relay.call(called)
    other = await stopped(called)
    again = called.ask(HOP_PROTOCOL)
    await write_message(again, HopMessage(HopType.RESERVE))
    assert await status_of(again) == Status.OK
    await write_message(other, ACCEPT)
    assert await status_of(stream) == Status.OK
    assert called.stops.empty()


async def test_a_peer_that_moves_for_ever_is_not_followed_for_ever(world):
    relay = world(CircuitLimits(connect_timeout_s=0.3))
    called = await relay.called()
    stream = await relay.call(called)

    async def move():
        for port in range(6000, 7000):
            await relay.called(remote=f"203.0.113.8:{port}")
            await asyncio.sleep(0.02)

    moving = asyncio.create_task(move())
    assert await status_of(stream) == Status.CONNECTION_FAILED
    moving.cancel()
