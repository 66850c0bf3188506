"""The control plane in memory behaves as the real one does, and can be cut and refused."""

import asyncio

import pytest

from protocol.errors import LocalProtocolError, RemoteProtocolError
from transport.address import Address, CircuitAddress
from transport.control.circuit_messages import Status
from transport.control.testing import FakeControl
from transport.errors import (
    DialFailed,
    PeerGone,
    ProtocolNotSupported,
    RelayRefused,
    StreamReset,
)
from transport.virtual_clock import run_virtual

ECHO = "/test/echo/1"


async def echo(stream):
    while data := await stream.read(65536):
        await stream.write(data)


async def read_all(stream):
    data = b""
    while more := await stream.read(65536):
        data += more
    return data


async def test_bytes_come_back_and_ends_are_told_apart():
    control = FakeControl()
    a, b = control.host(), control.host()
    b.set_handler(ECHO, echo)
    connection = await a.connect(b.addresses[0], timeout_s=1)
    stream = await connection.open_stream(ECHO, timeout_s=1)
    data = bytes(range(256)) * 4096

    async def write():
        await stream.write(data)
        await stream.finish()

    _, received = await asyncio.gather(write(), read_all(stream))
    assert received == data
    assert (stream.peer_id, stream.is_relayed, stream.remote) == (
        b.peer_id,
        False,
        "203.0.0.2:4001",
    )
    await stream.close()
    with pytest.raises(LocalProtocolError):
        await stream.write(b"x")
    stream = await connection.open_stream("/nobody/speaks/1", timeout_s=1)
    with pytest.raises(ProtocolNotSupported):
        await stream.read(1)


async def test_a_writer_waits_for_a_slow_reader():
    control = FakeControl()
    a, b = control.host(), control.host()
    may_read = asyncio.Event()

    async def slow(stream):
        await may_read.wait()
        await read_all(stream)

    b.set_handler(ECHO, slow)
    stream = await (await a.connect(b.addresses[0], timeout_s=1)).open_stream(ECHO, timeout_s=1)
    writing = asyncio.create_task(stream.write(bytes(300 * 1024)))
    await asyncio.sleep(0.01)
    assert not writing.done()
    may_read.set()
    await writing
    await a.close()
    await b.close()


async def test_a_reset_a_failed_handler_and_a_lost_connection_are_errors():
    control = FakeControl()
    a, b = control.host(), control.host()

    async def fail(stream):
        await stream.read(1)
        raise RemoteProtocolError("no")

    b.set_handler("/test/fail/1", fail)
    b.set_handler(ECHO, echo)
    connection = await a.connect(b.addresses[0], timeout_s=1)
    failing = await connection.open_stream("/test/fail/1", timeout_s=1)
    await failing.write(b"x")
    with pytest.raises(StreamReset):
        await failing.read(1)
    stream = await connection.open_stream(ECHO, timeout_s=1)
    control.cut(a.peer_id, b.peer_id)
    with pytest.raises(PeerGone):
        await stream.read(1)
    await connection.wait_closed()
    assert a.connections() == b.connections() == ()
    with pytest.raises(DialFailed, match="no answer"):
        await a.connect(b.addresses[0], timeout_s=1)
    control.heal(a.peer_id, b.peer_id)
    assert not (await a.connect(b.addresses[0], timeout_s=1)).is_closed


async def test_a_relay_grants_slots_and_circuits():
    control = FakeControl()
    relay, home, caller = control.relay(), control.host(listens=False), control.host(listens=False)
    home.set_handler(ECHO, echo)
    address = CircuitAddress(relay.addresses[0], home.peer_id)
    with pytest.raises(DialFailed, match="NO_RESERVATION"):
        await caller.connect(address, timeout_s=1)
    slot = await home.reserve(relay.addresses[0], timeout_s=1)
    assert slot.address == address
    connection = await caller.connect(address, timeout_s=1)
    assert connection.is_relayed
    assert connection.remote == relay.socket
    stream = await connection.open_stream(ECHO, timeout_s=1)
    await stream.write(b"hello")
    assert await stream.read(5) == b"hello"
    assert await caller.connect(address, timeout_s=1) is connection
    assert control.dials[address] == 2
    control.cut(home.peer_id, relay.peer_id)
    with pytest.raises(PeerGone):
        await stream.read(1)
    control.heal(home.peer_id, relay.peer_id)
    with pytest.raises(DialFailed, match="NO_RESERVATION"):
        await caller.connect(address, timeout_s=1)


async def test_a_relay_may_refuse():
    control = FakeControl()
    relay, one, other = control.relay(slots_max=1), control.host(), control.host()
    slot = await one.reserve(relay.addresses[0], timeout_s=1)
    with pytest.raises(RelayRefused) as refused:
        await other.reserve(relay.addresses[0], timeout_s=1)
    assert refused.value.status == Status.RESERVATION_REFUSED
    relay.circuit_refusal = Status.RESOURCE_LIMIT_EXCEEDED
    with pytest.raises(DialFailed, match="RESOURCE_LIMIT_EXCEEDED"):
        await other.connect(slot.address, timeout_s=1)
    with pytest.raises(RelayRefused):
        await one.reserve(other.addresses[0], timeout_s=1)
    await control.kill(relay.peer_id)
    with pytest.raises(DialFailed, match="relay"):
        await other.connect(slot.address, timeout_s=1)


def test_delays_take_their_time_and_timeouts_count():
    async def main():
        control = FakeControl(delay_s=0.05)
        a, b = control.host(), control.host()
        b.set_handler(ECHO, echo)
        loop = asyncio.get_running_loop()
        began = loop.time()
        connection = await a.connect(b.addresses[0], timeout_s=1)
        assert loop.time() - began == pytest.approx(0.1)
        began = loop.time()
        stream = await connection.open_stream(ECHO, timeout_s=1)
        await stream.write(b"x")
        assert loop.time() == began
        await stream.read(1)
        assert loop.time() - began == pytest.approx(0.1)
        began = loop.time()
        stream = await connection.open_stream("/nobody/speaks/1", timeout_s=1)
        with pytest.raises(ProtocolNotSupported):
            await stream.read(1)
        assert loop.time() - began == pytest.approx(0.1)
        with pytest.raises(DialFailed, match="in time"):
            await control.host().connect(b.addresses[0], timeout_s=0.01)
        await a.close()
        await b.close()

    run_virtual(main())


async def test_the_data_sockets_addresses_are_not_for_it():
    control = FakeControl()
    a, b = control.host(), control.host()
    with pytest.raises(RemoteProtocolError):
        await a.connect(Address("203.0.113.1", 1, b.peer_id), timeout_s=1)
