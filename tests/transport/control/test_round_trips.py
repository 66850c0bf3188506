"""How often the control plane waits for the other end; each wait is a round trip by a relay."""

import asyncio
import socket
from contextlib import asynccontextmanager

import pytest
import trio

from relay.carrying import Carrier
from relay.circuits import CircuitService
from relay.requests import RequestGate
from relay.resources import CircuitLimits, ForwarderLimits
from relay.usage import UsageTable
from tests.transport.control_hosts import control_hosts, echo, read_exactly
from tests.transport.turn_line import turn_line
from transport.address import CircuitAddress, TcpAddress
from transport.control.circuit_messages import HOP_PROTOCOL, Status
from transport.control.pipe import TcpSource
from transport.control.settings import ControlSettings
from transport.errors import DialFailed

ECHO = "/test/echo/1"
PATIENT = 20


async def assert_echo(connection):
    stream = await connection.open_stream(ECHO, timeout_s=PATIENT)
    await stream.write(b"there and back")
    assert await read_exactly(stream, 14) == b"there and back"


async def test_a_connection_takes_one_round_trip_and_the_first_answer_another():
    async with control_hosts(1) as (b,), control_hosts(1, listen=()) as (a,):
        b.set_handler(ECHO, echo)
        async with turn_line(b.addresses[0].port) as line:
            connection = await a.connect(
                TcpAddress("127.0.0.1", line.port, b.peer_id), timeout_s=PATIENT
            )
            assert line.round_trips == 1
            await assert_echo(connection)
            assert line.round_trips == 2
            await assert_echo(connection)
            assert line.round_trips == 3


@asynccontextmanager
async def relayed(settings=None):
    """(caller, called, the caller's line to the relay, the called peer's address by that line)."""
    limits, rates = CircuitLimits(), ForwarderLimits()
    async with (
        control_hosts(1) as (relay,),
        control_hosts(2, listen=(), settings=settings) as (a, b),
    ):
        service = CircuitService(
            relay, limits, RequestGate(limits), Carrier(limits, rates), UsageTable(rates), tuple
        )
        relay.set_handler(HOP_PROTOCOL, service.serve)
        b.set_handler(ECHO, echo)
        async with turn_line(relay.addresses[0].port) as line:
            by_line = TcpAddress("127.0.0.1", line.port, relay.peer_id)
            await b.reserve(relay.addresses[0], timeout_s=PATIENT)
            await a.connect(by_line, timeout_s=PATIENT)
            try:
                yield a, b, line, CircuitAddress(by_line, b.peer_id)
            finally:
                await service.close()


async def test_a_circuit_takes_one_round_trip_and_the_first_answer_another():
    async with relayed() as (a, _b, line, address):
        before = line.round_trips
        connection = await a.connect(address, timeout_s=PATIENT)
        assert line.round_trips == before + 1
        await assert_echo(connection)
        assert line.round_trips == before + 2


async def test_a_reservation_takes_one_round_trip():
    async with relayed() as (a, _b, line, address):
        before = line.round_trips
        await a.reserve(address.relay, timeout_s=PATIENT)
        assert line.round_trips == before + 1


async def test_a_circuit_is_refused_in_one_round_trip_with_the_relays_reason():
    async with relayed() as (a, b, line, address):
        for connection in b.connections():
            await connection.close()
        before = line.round_trips
        with pytest.raises(DialFailed, match=Status.NO_RESERVATION.name):
            await a.connect(address, timeout_s=PATIENT)
        assert line.round_trips == before + 1
        assert [c.is_relayed for c in a.connections()] == [False]


async def test_no_small_message_waits_for_the_acknowledgement_of_another():
    """Nagle's algorithm would hold each optimistic message back for a round trip."""

    def main():
        return trio.run(both_ends)

    async def both_ends():
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            ends = []
            nursery.start_soon(accept, listener, ends)
            connecting = trio.socket.socket()
            await connecting.connect(listener.socket.getsockname())
            TcpSource(trio.SocketStream(connecting))
            ends.append(connecting)
            while len(ends) < 2:
                await trio.sleep(0.001)
            options = [end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for end in ends]
            for end in (*ends, listener.socket):
                end.close()
            return options

    async def accept(listener, ends):
        stream = await listener.accept()
        TcpSource(stream)
        ends.append(stream.socket)

    assert all(await asyncio.to_thread(main))


@asynccontextmanager
async def forgetful_line(target_port):
    """A router whose `forget` leaves every connection there is dead, without a word to anybody."""
    generation = 0
    tasks = set()

    async def accept(reader, writer):
        tasks.add(asyncio.current_task())
        born = generation
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target_port)

        async def carry(source, target):
            while data := await source.read(65536):
                if born == generation:
                    target.write(data)

        try:
            await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))
        finally:
            writer.close()
            far_writer.close()

    def forget():
        nonlocal generation
        generation += 1

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], forget
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_dead_connection_to_the_relay_is_replaced_when_it_is_needed():
    quick = ControlSettings(answer_timeout_s=0.3)
    async with (
        relayed(settings=quick) as (a, _b, line, address),
        forgetful_line(line.target_port) as (port, forget),
    ):
        relay = TcpAddress("127.0.0.1", port, address.relay.peer_id)
        for unused in a.connections():
            await unused.close()
        await a.reserve(relay, timeout_s=PATIENT)
        forget()
        connection = await a.connect(CircuitAddress(relay, address.peer_id), timeout_s=5)
        await assert_echo(connection)
        (living,) = (c for c in a.connections() if not c.is_relayed)
        forget()
        await a.reserve(relay, timeout_s=5)
        assert living.is_closed


async def test_who_answers_is_not_given_up_however_long_a_stream_stays_quiet():
    quick = ControlSettings(answer_timeout_s=0.2)
    async with control_hosts(1) as (b,), control_hosts(1, listen=(), settings=quick) as (a,):
        b.set_handler(ECHO, echo)
        connection = await a.connect(b.addresses[0], timeout_s=PATIENT)
        stream = await connection.open_stream(ECHO, timeout_s=PATIENT)
        await asyncio.sleep(0.6)
        await stream.write(b"late")
        assert await read_exactly(stream, 4) == b"late"
