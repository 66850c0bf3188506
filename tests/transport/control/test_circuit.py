"""Circuits through the smallest relay there can be, on real control hosts."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from protocol.errors import RemoteProtocolError
from protocol.identity import KeyPair
from tests.transport.control_hosts import control_hosts, echo, read_all, read_exactly, until
from transport.address import CircuitAddress
from transport.control.circuit_messages import (
    HOP_PROTOCOL,
    STOP_PROTOCOL,
    CircuitLimit,
    HopMessage,
    HopType,
    RelayReservation,
    Status,
    StopMessage,
    StopType,
    read_message,
    write_message,
)
from transport.control.identify import identify, ping
from transport.control.settings import ControlSettings
from transport.errors import DialFailed, PeerGone, RelayRefused, TransportError

ECHO = "/test/echo/1"
PATIENT = 10


class Hop:
    """Grants everyone a slot, joins circuits, and may lie or refuse."""

    def __init__(self, host):
        self.host = host
        self.refusal = None
        self.claimed_caller = None
        self.duration_s = 3600
        self.circuits = []
        host.set_handler(HOP_PROTOCOL, self.serve)

    @property
    def address(self):
        return self.host.addresses[0]

    async def serve(self, stream):
        message = await read_message(stream, HopMessage, timeout_s=5)
        if self.refusal is not None:
            await write_message(stream, HopMessage(HopType.STATUS, status=self.refusal))
        elif message.type is HopType.RESERVE:
            slot = RelayReservation(int(time.time()) + self.duration_s)
            limit = CircuitLimit(60, 1 << 30)
            await write_message(
                stream,
                HopMessage(HopType.STATUS, reservation=slot, limit=limit, status=Status.OK),
            )
        else:
            await self.join(stream, message.peer)

    async def join(self, stream, called):
        connection = next((c for c in self.host.connections() if c.peer_id == called), None)
        if connection is None:
            status = HopMessage(HopType.STATUS, status=Status.NO_RESERVATION)
            return await write_message(stream, status)
        other = await connection.open_stream(STOP_PROTOCOL, timeout_s=5)
        caller = self.claimed_caller or stream.peer_id
        await write_message(other, StopMessage(StopType.CONNECT, peer=caller))
        answer = await read_message(other, StopMessage, timeout_s=5)
        await write_message(stream, HopMessage(HopType.STATUS, status=answer.status))
        if answer.status == Status.OK:
            self.circuits.append((stream, other))
            await asyncio.gather(carry(stream, other), carry(other, stream))
        return None


async def carry(source, target):
    try:
        while data := await source.read(65536):
            await target.write(data)
        await target.finish()
    except TransportError:
        await asyncio.gather(source.reset(), target.reset())


@asynccontextmanager
async def world(relay_count, node_count, *, settings=None):
    """Relays, and nodes that listen nowhere and answer echoes."""
    async with (
        control_hosts(relay_count) as relays,
        control_hosts(node_count, listen=(), settings=settings) as nodes,
    ):
        for node in nodes:
            node.set_handler(ECHO, echo)
        yield [Hop(relay) for relay in relays], nodes


async def assert_echo(connection, data=b"through the relay"):
    stream = await connection.open_stream(ECHO, timeout_s=PATIENT)
    _, answer = await asyncio.gather(stream.write(data), read_exactly(stream, len(data)))
    assert answer == data
    return stream


async def test_two_nodes_that_listen_nowhere_meet_at_a_relay():
    async with world(1, 2) as ((hop,), (a, b)):
        slot = await b.reserve(hop.address, timeout_s=PATIENT)
        assert slot.relay == hop.address
        assert slot.address == CircuitAddress(hop.address, b.peer_id)
        assert 3500 < slot.expires_at_s - time.time() <= 3600
        assert (slot.circuit_bytes_max, slot.circuit_duration_s) == (1 << 30, 60)

        connection = await a.connect(slot.address, timeout_s=PATIENT)
        assert connection.is_relayed
        assert connection.peer_id == b.peer_id
        assert connection.remote == f"127.0.0.1:{hop.address.port}"
        stream = await assert_echo(connection)
        assert stream.is_relayed
        assert stream.peer_id == b.peer_id
        assert await a.connect(slot.address, timeout_s=PATIENT) is connection
        (back,) = (c for c in b.connections() if c.is_relayed)
        assert back.peer_id == a.peer_id
        assert await ping(back, timeout_s=PATIENT) > 0
        assert (await identify(connection, timeout_s=PATIENT)).observed_address == b""


async def test_a_megabyte_passes_a_relay_both_ways():
    async with world(1, 2) as ((hop,), (a, b)):
        slot = await b.reserve(hop.address, timeout_s=PATIENT)
        connection = await a.connect(slot.address, timeout_s=PATIENT)
        stream = await assert_echo(connection, bytes(range(256)) * 4096)
        await stream.finish()
        assert await read_all(stream) == b""


async def test_circuits_to_several_peers_at_several_relays_know_nothing_of_one_another():
    async with world(2, 4) as (hops, (a, *others)):
        slots = {}
        for hop in hops:
            for other in others:
                slots[hop, other] = await other.reserve(hop.address, timeout_s=PATIENT)
        made = {
            key: await a.connect(slot.address, timeout_s=PATIENT) for key, slot in slots.items()
        }
        streams = {key: await assert_echo(connection) for key, connection in made.items()}
        first = next(iter(made))
        await made[first].close()
        assert made[first].is_closed
        for key, stream in streams.items():
            if key != first:
                await stream.write(b"unharmed")
                assert await read_exactly(stream, 8) == b"unharmed"
        await assert_echo(await a.connect(slots[first].address, timeout_s=PATIENT))


async def test_the_end_of_a_relayed_connection_is_seen_at_the_other_end():
    async with world(1, 2) as ((hop,), (a, b)):
        slot = await b.reserve(hop.address, timeout_s=PATIENT)
        connection = await a.connect(slot.address, timeout_s=PATIENT)
        await assert_echo(connection)
        (back,) = (c for c in b.connections() if c.is_relayed)
        await connection.close()
        await asyncio.wait_for(back.wait_closed(), 5)

        connection = await a.connect(slot.address, timeout_s=PATIENT)
        stream = await assert_echo(connection)
        for one, other in hop.circuits:
            await one.reset()
            await other.reset()
        with pytest.raises(PeerGone):
            await asyncio.wait_for(stream.read(1), 5)
        await asyncio.wait_for(connection.wait_closed(), 5)


async def test_the_end_of_the_relay_ends_its_circuits():
    async with world(1, 2) as ((hop,), (a, b)):
        slot = await b.reserve(hop.address, timeout_s=PATIENT)
        connection = await a.connect(slot.address, timeout_s=PATIENT)
        stream = await assert_echo(connection)
        await hop.host.close()
        with pytest.raises(PeerGone):
            await asyncio.wait_for(stream.read(1), 5)
        await until(lambda: not a.connections() and not b.connections())


@pytest.mark.parametrize("status", [Status.RESERVATION_REFUSED, Status.RESOURCE_LIMIT_EXCEEDED])
async def test_a_refusal_is_told_with_the_relays_own_status(status):
    async with world(1, 2) as ((hop,), (a, b)):
        slot = await b.reserve(hop.address, timeout_s=PATIENT)
        hop.refusal = status
        with pytest.raises(RelayRefused, match=status.name) as refused:
            await b.reserve(hop.address, timeout_s=PATIENT)
        assert refused.value.status == status
        with pytest.raises(DialFailed, match=status.name):
            await a.connect(slot.address, timeout_s=PATIENT)


async def test_a_peer_without_a_slot_cannot_be_called():
    async with world(1, 2) as ((hop,), (a, b)):
        address = CircuitAddress(hop.address, b.peer_id)
        with pytest.raises(DialFailed, match="NO_RESERVATION"):
            await a.connect(address, timeout_s=PATIENT)
        await b.connect(hop.address, timeout_s=PATIENT)  # connected, but it asked for no slot
        with pytest.raises(DialFailed, match="PERMISSION_DENIED"):
            await a.connect(address, timeout_s=PATIENT)


async def test_a_slot_that_has_expired_lets_nobody_in():
    async with world(1, 2) as ((hop,), (a, b)):
        hop.duration_s = 0
        slot = await b.reserve(hop.address, timeout_s=PATIENT)
        with pytest.raises(DialFailed, match="PERMISSION_DENIED"):
            await a.connect(slot.address, timeout_s=PATIENT)


async def test_a_relay_that_joins_the_wrong_peer_is_found_out():
    async with world(1, 3) as ((hop,), (a, b, c)):
        for node in (b, c):
            await node.reserve(hop.address, timeout_s=PATIENT)
        original = hop.join
        hop.join = lambda stream, _called: original(stream, c.peer_id)
        with pytest.raises(DialFailed, match="another PeerId"):
            await a.connect(CircuitAddress(hop.address, b.peer_id), timeout_s=PATIENT)
        assert not [x for x in a.connections() if x.is_relayed]


async def test_a_relay_that_names_the_wrong_caller_changes_nothing_about_who_calls():
    async with world(1, 2) as ((hop,), (a, b)):
        slot = await b.reserve(hop.address, timeout_s=PATIENT)
        hop.claimed_caller = KeyPair.generate().peer_id
        await a.connect(slot.address, timeout_s=PATIENT)
        await until(lambda: any(c.is_relayed for c in b.connections()))
        (back,) = (c for c in b.connections() if c.is_relayed)
        assert back.peer_id == a.peer_id


async def test_who_is_no_relay_is_said():
    async with world(1, 1) as ((hop,), (a,)):
        hop.host.set_handler(HOP_PROTOCOL, None)
        with pytest.raises(DialFailed, match="does not speak"):
            await a.reserve(hop.address, timeout_s=PATIENT)


async def test_garbage_from_a_relay_is_its_fault():
    async def babble(stream):
        await stream.write(b"\x05hello and more")

    async with world(1, 1) as ((hop,), (a,)):
        hop.host.set_handler(HOP_PROTOCOL, babble)
        with pytest.raises(DialFailed, match=r"protobuf|type"):
            await a.reserve(hop.address, timeout_s=PATIENT)


async def test_a_relayed_peer_that_falls_silent_is_given_up():
    quick = ControlSettings(keepalive_s=0.1, idle_timeout_s=0.5)
    async with world(1, 2, settings=quick) as ((hop,), (a, b)):
        slot = await b.reserve(hop.address, timeout_s=PATIENT)
        may_carry = asyncio.Event()
        may_carry.set()

        async def carry_slowly(source, target):
            while data := await source.read(65536):
                await may_carry.wait()
                await target.write(data)

        async def join(stream, called):
            connection = next(c for c in hop.host.connections() if c.peer_id == called)
            other = await connection.open_stream(STOP_PROTOCOL, timeout_s=5)
            await write_message(other, StopMessage(StopType.CONNECT, peer=stream.peer_id))
            await read_message(other, StopMessage, timeout_s=5)
            await write_message(stream, HopMessage(HopType.STATUS, status=Status.OK))
            await asyncio.gather(carry_slowly(stream, other), carry_slowly(other, stream))

        hop.join = join
        connection = await a.connect(slot.address, timeout_s=PATIENT)
        await assert_echo(connection)
        await asyncio.sleep(0.8)
        assert not connection.is_closed
        may_carry.clear()
        await asyncio.wait_for(connection.wait_closed(), 5)


async def test_a_stop_stream_with_garbage_harms_nothing():
    async with world(1, 1) as ((hop,), (a,)):
        await a.reserve(hop.address, timeout_s=PATIENT)
        (connection,) = hop.host.connections()
        for garbage in (b"\xff\xff\xff", b"\x02\x08\x01", b"\x00", b""):
            stream = await connection.open_stream(STOP_PROTOCOL, timeout_s=PATIENT)
            await stream.write(garbage or b"\x02\x08\x00")
            await stream.finish()
            try:
                answer = await read_message(stream, StopMessage, timeout_s=PATIENT)
                assert answer.status != Status.OK
            except (TransportError, RemoteProtocolError):
                pass
        assert a.connections()
