import asyncio
import contextlib

import pytest

from relay.carrying import Carrier, CircuitEnd
from relay.circuits import CircuitService
from relay.requests import PENDING_PER_PEER_MAX, RequestGate
from relay.resources import CircuitLimits, ForwarderLimits
from relay.usage import UsageTable
from tests.relay.control_pair import WINDOW_BYTES, RelayHost, peer_id
from transport.control.circuit_messages import (
    HOP_PROTOCOL,
    CircuitLimit,
    HopMessage,
    HopType,
    Status,
    StopMessage,
    StopType,
    read_message,
    write_message,
)
from transport.errors import StreamReset

RESERVE = HopMessage(HopType.RESERVE)
ACCEPT = StopMessage(StopType.STATUS, status=Status.OK)


class Relay:
    """The service under test over streams in memory."""

    def __init__(self, limits, rates=None):
        rates = rates or ForwarderLimits()
        self.host = RelayHost()
        self.gate = RequestGate(limits)
        self.usage = UsageTable(rates)
        self.carrier = Carrier(limits, rates)
        self.service = CircuitService(
            self.host, limits, self.gate, self.carrier, self.usage, lambda: (b"address",)
        )
        self.host.set_handler(HOP_PROTOCOL, self.service.serve)

    async def reserve(self, peer):
        return await hop(peer, RESERVE)

    async def called(self, name, **how):
        """A peer with a reservation, who accepts; what it is called on comes out of the queue."""
        peer = self.host.join(name, **how)
        peer.calls = asyncio.Queue()

        async def accept(stream):
            message = await read_message(stream, StopMessage, timeout_s=5)
            await write_message(stream, ACCEPT)
            await peer.calls.put((message, stream))

        peer.on_stop = accept
        assert (await self.reserve(peer)).status == Status.OK
        return peer

    async def circuit(self, caller, called):
        """Both ends of a new circuit: the caller's, the called's."""
        stream = caller.ask(HOP_PROTOCOL)
        await write_message(stream, HopMessage(HopType.CONNECT, peer=called.peer_id))
        answer = await read_message(stream, HopMessage, timeout_s=5)
        assert answer.status == Status.OK
        _, other = await called.calls.get()
        return stream, other


async def hop(peer, message):
    """The answer to one message on a stream of its own."""
    stream = peer.ask(HOP_PROTOCOL)
    await write_message(stream, message)
    return await read_message(stream, HopMessage, timeout_s=5)


async def connect(caller, target):
    return (await hop(caller, HopMessage(HopType.CONNECT, peer=target))).status


@pytest.fixture
async def make():
    relays = []

    def _make(rates=None, **limits):
        relays.append(Relay(CircuitLimits(**limits), rates))
        return relays[-1]

    yield _make
    for relay in relays:
        await relay.host.close()
        await relay.service.close()


async def read_exactly(stream, size):
    data = b""
    while len(data) < size:
        more = await stream.read(size - len(data))
        assert more, "the stream ended"
        data += more
    return data


async def assert_reset(stream):
    with pytest.raises(StreamReset):
        await read_exactly(stream, 2**40)


class TestReserve:
    async def test_grants_a_slot_with_its_limits(self, make):
        relay = make(circuit_duration_s=60, circuit_bytes_max=1000, reservation_duration_s=600)
        answer = await relay.reserve(relay.host.join("a"))
        assert answer.status == Status.OK
        assert answer.limit == CircuitLimit(60, 1000)
        assert answer.reservation.addresses == (b"address",)
        assert len(relay.service.reservations) == 1

    async def test_again_renews_the_one_slot(self, make):
        relay = make(reservations_max=1)
        peer = relay.host.join("a")
        for _ in range(3):
            assert (await relay.reserve(peer)).status == Status.OK
        assert len(relay.service.reservations) == 1

    @pytest.mark.parametrize("limit", ["reservations_max", "reservations_per_host_max"])
    async def test_is_refused_beyond_a_limit_which_is_named(self, make, limit):
        relay = make(**{limit: 2})
        for name in "ab":
            await relay.reserve(relay.host.join(name))
        answer = await relay.reserve(relay.host.join("c"))
        assert answer.status == Status.RESERVATION_REFUSED
        assert relay.gate.refusals.counts == {f"circuits.{limit}": 1}

    async def test_another_household_has_its_own_allowance(self, make):
        relay = make(reservations_per_host_max=1)
        for name, remote in [
            ("a", "203.0.113.7:1"),
            ("b", "203.0.113.8:1"),
            ("c", "[2001:db8::1]:1"),
        ]:
            assert (await relay.reserve(relay.host.join(name, remote=remote))).status == Status.OK
        same_line = relay.host.join("d", remote="[2001:db8::2]:1")
        assert (await relay.reserve(same_line)).status == Status.RESERVATION_REFUSED

    async def test_over_a_relay_is_refused(self, make):
        relay = make()
        answer = await relay.reserve(relay.host.join("a", is_relayed=True))
        assert answer.status == Status.PERMISSION_DENIED
        assert len(relay.service.reservations) == 0

    async def test_slot_ends_with_its_connection(self, make):
        relay = make()
        peer = await relay.called("b")
        await peer.close()
        await asyncio.sleep(0)
        assert len(relay.service.reservations) == 0
        assert await connect(relay.host.join("a"), peer.peer_id) == Status.NO_RESERVATION

    async def test_newer_connection_keeps_the_slot_when_the_older_ends(self, make):
        relay = make()
        before = await relay.called("b", remote="203.0.113.7:1")
        await relay.called("b", remote="203.0.113.7:2")
        await before.close()
        await asyncio.sleep(0)
        assert await connect(relay.host.join("a"), peer_id("b")) == Status.OK

    async def test_slot_ends_with_its_time(self, make):
        relay = make(reservation_duration_s=1)
        peer = await relay.called("b")
        await asyncio.sleep(1.05)
        assert await connect(relay.host.join("a"), peer.peer_id) == Status.NO_RESERVATION


class TestConnect:
    async def test_called_peer_hears_who_calls_and_bytes_flow_both_ways(self, make):
        relay = make()
        caller, called = relay.host.join("a"), await relay.called("b")
        stream = caller.ask(HOP_PROTOCOL)
        await write_message(stream, HopMessage(HopType.CONNECT, peer=called.peer_id))
        assert (await read_message(stream, HopMessage, timeout_s=5)).status == Status.OK
        message, other = await called.calls.get()
        assert message.peer == caller.peer_id
        await stream.write(b"there")
        assert await read_exactly(other, 5) == b"there"
        await other.write(b"and back")
        assert await read_exactly(stream, 8) == b"and back"
        assert relay.carrier.bytes_carried == 13

    async def test_without_reservation(self, make):
        relay = make()
        relay.host.join("b")
        assert await connect(relay.host.join("a"), peer_id("b")) == Status.NO_RESERVATION

    async def test_to_oneself_is_refused(self, make):
        relay = make()
        peer = await relay.called("b")
        assert await connect(peer, peer.peer_id) == Status.PERMISSION_DENIED

    async def test_over_a_relay_is_refused(self, make):
        relay = make()
        called = await relay.called("b")
        caller = relay.host.join("a", is_relayed=True)
        assert await connect(caller, called.peer_id) == Status.PERMISSION_DENIED

    @pytest.mark.parametrize("reply", [None, Status.PERMISSION_DENIED, "garbage", "silence"])
    async def test_peer_that_does_not_accept(self, make, reply):
        relay = make(connect_timeout_s=0.1)
        called = await relay.called("b")

        async def refuse(stream):
            if reply == "garbage":
                await stream.write(b"\x05xxxxx")
            elif reply != "silence":
                await write_message(stream, StopMessage(StopType.STATUS, status=reply))

        called.on_stop = refuse if reply else None
        assert await connect(relay.host.join("a"), called.peer_id) == Status.CONNECTION_FAILED
        assert relay.service.circuits.count == 0

    @pytest.mark.parametrize(
        "limit", ["circuits_max", "circuits_per_peer_max", "circuits_per_host_max"]
    )
    async def test_is_refused_beyond_a_limit_which_is_named(self, make, limit):
        relay = make(**{limit: 1})
        caller, called = relay.host.join("a"), await relay.called("b")
        stream, other = await relay.circuit(caller, called)
        assert await connect(caller, called.peer_id) == Status.RESOURCE_LIMIT_EXCEEDED
        assert relay.gate.refusals.counts == {f"circuits.{limit}": 1}
        for end in (stream, other):
            await end.finish()
        await assert_over(relay)
        assert await connect(caller, called.peer_id) == Status.OK


class TestCircuit:
    async def test_half_close_is_carried_and_the_other_way_goes_on(self, make):
        relay = make()
        stream, other = await relay.circuit(relay.host.join("a"), await relay.called("b"))
        await stream.write(b"question")
        await stream.finish()
        assert await read_exactly(other, 8) == b"question"
        assert await other.read(1) == b""
        await other.write(b"answer")
        assert await read_exactly(stream, 6) == b"answer"
        await other.finish()
        assert await stream.read(1) == b""
        await assert_over(relay)
        assert relay.carrier.ends == {CircuitEnd.FINISHED: 1}

    async def test_reset_is_carried(self, make):
        relay = make()
        stream, other = await relay.circuit(relay.host.join("a"), await relay.called("b"))
        await stream.reset()
        await assert_reset(other)
        await assert_over(relay)
        assert relay.carrier.ends == {CircuitEnd.BROKEN: 1}

    async def test_end_of_one_touches_no_other(self, make):
        """D14: py-libp2p's relay resets B's circuit when the same dialer's to A is closed."""
        relay = make()
        caller = relay.host.join("a")
        circuits = [await relay.circuit(caller, await relay.called(name)) for name in "bcd"]
        await circuits[0][0].reset()
        await circuits[1][1].reset()
        await assert_reset(circuits[0][1])
        await assert_reset(circuits[1][0])
        stream, other = circuits[2]
        await stream.write(b"alive")
        assert await read_exactly(other, 5) == b"alive"
        assert relay.service.circuits.count == 1

    async def test_bytes_are_limited_each_way_and_nothing_is_written_into_them(self, make):
        relay = make(circuit_bytes_max=1000)
        stream, other = await relay.circuit(relay.host.join("a"), await relay.called("b"))
        await stream.write(bytes(1000))
        assert await read_exactly(other, 1000) == bytes(1000)
        await other.write(b"the other way has its own")
        assert await read_exactly(stream, 25) == b"the other way has its own"
        await stream.write(b"one more")
        await assert_reset(other)
        await assert_reset(stream)
        await assert_over(relay)
        assert relay.carrier.ends == {CircuitEnd.BYTES: 1}

    async def test_exactly_what_is_allowed_ends_well(self, make):
        relay = make(circuit_bytes_max=1000)
        stream, other = await relay.circuit(relay.host.join("a"), await relay.called("b"))
        await stream.write(bytes(1000))
        for end in (stream, other):
            await end.finish()
        assert await read_exactly(other, 1000) == bytes(1000)
        assert await other.read(1) == b""

    async def test_duration_is_limited(self, make):
        relay = make(circuit_duration_s=1)
        stream, other = await relay.circuit(relay.host.join("a"), await relay.called("b"))
        await assert_reset(stream)
        await assert_reset(other)
        await assert_over(relay)
        assert relay.carrier.ends == {CircuitEnd.DURATION: 1}

    async def test_idle_circuit_is_ended_and_a_busy_one_is_not(self, make):
        relay = make(circuit_idle_s=0.1)
        caller = relay.host.join("a")
        idle, _ = await relay.circuit(caller, await relay.called("b"))
        busy, other = await relay.circuit(caller, await relay.called("c"))
        for _ in range(12):
            await busy.write(b"x")
            assert await read_exactly(other, 1) == b"x"
            await asyncio.sleep(0.02)
        await assert_reset(idle)
        assert relay.carrier.ends == {CircuitEnd.IDLE: 1}

    async def test_callers_month_is_limited(self, make):
        relay = make(rates=ForwarderLimits(month_bytes_max=100))
        stream, other = await relay.circuit(relay.host.join("a"), await relay.called("b"))
        await other.write(bytes(101))
        await assert_reset(stream)
        await assert_over(relay)
        assert relay.carrier.ends == {CircuitEnd.MONTH: 1}

    async def test_bandwidth_of_a_caller_is_shared_by_its_circuits(self, make):
        size, burst = 200_000, 65_536
        relay = make(rates=ForwarderLimits(bytes_per_s_max=1_000_000, burst_bytes=burst))
        caller = relay.host.join("a")
        circuits = [await relay.circuit(caller, await relay.called(name)) for name in "bc"]
        began = asyncio.get_running_loop().time()
        await asyncio.gather(
            *(stream.write(bytes(size)) for stream, _ in circuits),
            *(read_exactly(other, size) for _, other in circuits),
        )
        elapsed_s = asyncio.get_running_loop().time() - began
        assert elapsed_s >= (2 * size - burst) / 1_000_000 * 0.9

    async def test_bytes_are_counted_for_both_peers(self, make):
        relay = make()
        caller, called = relay.host.join("a"), await relay.called("b")
        stream, other = await relay.circuit(caller, called)
        await stream.write(bytes(300))
        await read_exactly(other, 300)
        sent, got = (relay.usage.statistics_of(peer.peer_id) for peer in (caller, called))
        assert (sent.bytes_from, got.bytes_to) == (300, 300)
        assert sent.circuits == got.circuits == 1

    async def test_slow_reader_slows_its_sender_and_nobody_else(self, make):
        relay = make()
        caller = relay.host.join("a")
        slow, _unread = await relay.circuit(caller, await relay.called("b"))
        quick, read = await relay.circuit(caller, await relay.called("c"))
        flood = asyncio.create_task(slow.write(bytes(16 * WINDOW_BYTES)))
        for _ in range(50):
            await quick.write(b"x" * 1000)
            assert await read_exactly(read, 1000) == b"x" * 1000
        assert not flood.done()
        held = relay.carrier.bytes_carried - 50_000
        assert held <= WINDOW_BYTES + CircuitLimits().circuit_buffer_bytes
        await slow.reset()
        with contextlib.suppress(StreamReset):
            await flood


class TestHostile:
    @pytest.mark.parametrize(
        "sent",
        [b"\xff\xff\xff\xff\x0f", b"\x00", b"\x03\xff\xff\xff", b"\x02\x08\x09", b"\x02\x08\x01"],
        ids=["huge", "empty", "not protobuf", "unknown type", "connect to nobody"],
    )
    async def test_malformed_message_is_answered_and_the_stream_ended(self, make, sent):
        relay = make()
        peer = relay.host.join("a")
        stream = peer.ask(HOP_PROTOCOL)
        await stream.write(sent)
        answer = await read_message(stream, HopMessage, timeout_s=5)
        assert answer.status == Status.MALFORMED_MESSAGE
        assert await stream.read(1) == b""
        assert relay.gate.refusals.counts == {"malformed": 1}

    async def test_status_is_not_for_peers_to_send(self, make):
        relay = make()
        answer = await hop(relay.host.join("a"), HopMessage(HopType.STATUS, status=Status.OK))
        assert answer.status == Status.UNEXPECTED_MESSAGE

    async def test_endless_reserving_is_cut_off_and_others_are_served(self, make):
        relay = make(requests_per_peer_per_s=0.001, requests_per_peer_burst=5)
        greedy, honest = relay.host.join("a"), relay.host.join("b")
        statuses = [(await relay.reserve(greedy)).status for _ in range(20)]
        granted = statuses.count(Status.OK)
        assert granted in (5, 6)  # the last of a bucket may become debt
        assert statuses[granted:] == [Status.RESOURCE_LIMIT_EXCEEDED] * (20 - granted)
        assert relay.gate.refusals.counts == {"circuits.requests_per_peer_per_s": 20 - granted}
        assert (await relay.reserve(honest)).status == Status.OK

    async def test_streams_that_never_ask_are_few_and_reset_in_time(self, make):
        relay = make(handshake_timeout_s=0.1)
        peer = relay.host.join("a")
        silent = [peer.ask(HOP_PROTOCOL) for _ in range(PENDING_PER_PEER_MAX)]
        await asyncio.sleep(0)
        answer = await relay.reserve(peer)
        assert answer.status == Status.RESOURCE_LIMIT_EXCEEDED
        for stream in silent:
            await assert_reset(stream)
        assert (await relay.reserve(peer)).status == Status.OK

    async def test_draining_relay_grants_nothing_new(self, make):
        relay = make()
        relay.gate.is_draining = True
        answer = await relay.reserve(relay.host.join("a"))
        assert answer.status == Status.RESOURCE_LIMIT_EXCEEDED
        assert relay.gate.refusals.counts == {"draining": 1}


async def assert_over(relay):
    """The last circuit's bookkeeping is done."""
    async with asyncio.timeout(5):
        while relay.service.circuits.count:
            await asyncio.sleep(0.001)
