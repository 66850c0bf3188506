"""Our control plane with go-libp2p: over TCP both ways, and circuits of either relay."""

import asyncio
import os

import pytest

from protocol.identity import KeyPair
from transport.address import CircuitAddress, TcpAddress
from transport.control.circuit_messages import HOP_PROTOCOL
from transport.control.host import LibP2pHost
from transport.control.identify import identify, ping
from transport.errors import DialFailed, ProtocolNotSupported

from .p2pd import DaemonError, find_p2pd, go_peer

ECHO = "/test/echo/1"
PATIENT = 10
CIRCUIT_ECHO_BYTES = 16 * 1024
"""go's relay carries 128 KiB each way and then resets."""

RELAYING = ("-relayService=1", "-forceReachabilityPublic")


@pytest.fixture(autouse=True, scope="module")
def p2pd():
    return find_p2pd()


@pytest.fixture
async def hosts():
    made = []

    async def start(*, listens=False):
        listen = (("127.0.0.1", 0),) if listens else ()
        made.append(await LibP2pHost.start(KeyPair.generate(), listen=listen))
        made[-1].set_handler(ECHO, echo)
        return made[-1]

    yield start
    await asyncio.gather(*(host.close() for host in made))


async def echo(stream):
    while data := await stream.read(65536):
        await stream.write(data)


async def go_echo(_peer_id, reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def address_of(go):
    text = next(a for a in go.addresses if "/tcp/" in a and "127.0.0.1" in a)
    return TcpAddress.from_text(f"{text}/p2p/{go.peer_id}")


async def assert_echo(stream, size=1 << 20):
    data = os.urandom(size)
    received = b""

    async def read():
        nonlocal received
        while len(received) < size:
            more = await stream.read(65536)
            assert more
            received += more

    await asyncio.gather(stream.write(data), read())
    assert received == data


async def test_we_dial_go_identify_ping_and_move_a_megabyte(hosts):
    async with go_peer() as go:
        await go.serve(ECHO, go_echo)
        us = await hosts()
        connection = await us.connect(address_of(go), timeout_s=PATIENT)
        identity = await identify(connection, timeout_s=PATIENT)
        assert identity.public_key[-32:] == go.peer_id.public_key
        assert ECHO in identity.protocols
        for _ in range(10):
            assert await ping(connection, timeout_s=PATIENT) < PATIENT
        stream = await connection.open_stream(ECHO, timeout_s=PATIENT)
        await assert_echo(stream)
        await stream.close()  # the daemon answers an end with a reset, so it cannot be awaited
        assert us.peer_id in await go.peers()
        await go.disconnect(us.peer_id)
        await asyncio.wait_for(connection.wait_closed(), PATIENT)


async def test_go_dials_us_pings_and_moves_a_megabyte(hosts):
    async with go_peer(listen=()) as go:
        us = await hosts(listens=True)
        await go.connect(us.peer_id, str(us.addresses[0]).rpartition("/p2p/")[0])
        await go.ping(us.peer_id, 10)
        reader, writer = await go.open_stream(us.peer_id, ECHO)
        data = os.urandom(1 << 20)
        writer.write(data)
        received = await asyncio.wait_for(reader.readexactly(len(data)), PATIENT)
        assert received == data
        writer.close()
        with pytest.raises(DaemonError, match="not supported"):
            await go.open_stream(us.peer_id, "/nobody/speaks/1")
        (connection,) = us.connections()
        assert connection.peer_id == go.peer_id


async def test_go_refuses_what_we_speak_before_it_agreed(hosts):
    async with go_peer() as go:
        connection = await (await hosts()).connect(address_of(go), timeout_s=PATIENT)
        stream = await connection.open_stream("/nobody/speaks/1", timeout_s=PATIENT)
        await stream.write(b"sent without waiting")
        with pytest.raises(ProtocolNotSupported):
            await asyncio.wait_for(stream.read(1), PATIENT)
        assert await ping(connection, timeout_s=PATIENT) < PATIENT


async def test_go_refuses_to_be_somebody_else(hosts):
    async with go_peer() as go:
        us = await hosts()
        address = address_of(go)
        wrong = TcpAddress(address.host, address.port, KeyPair.generate().peer_id)
        with pytest.raises(DialFailed, match="another PeerId"):
            await us.connect(wrong, timeout_s=PATIENT)


async def test_circuits_of_gos_relay_are_independent_of_one_another(hosts):
    async with go_peer(arguments=RELAYING) as relay:
        dialler, one, other = await hosts(), await hosts(), await hosts()
        await wait_for_protocol(dialler, address_of(relay), HOP_PROTOCOL)
        slots = [await host.reserve(address_of(relay), timeout_s=PATIENT) for host in (one, other)]
        assert slots[0].circuit_bytes_max > 4 * CIRCUIT_ECHO_BYTES
        first, second = [await dialler.connect(s.address, timeout_s=PATIENT) for s in slots]
        assert first.is_relayed
        kept = await second.open_stream(ECHO, timeout_s=PATIENT)
        await assert_echo(await first.open_stream(ECHO, timeout_s=PATIENT), CIRCUIT_ECHO_BYTES)
        await first.close()  # in py-libp2p's relay this resets the other (D14)
        await assert_echo(kept, CIRCUIT_ECHO_BYTES)


async def test_without_a_slot_gos_relay_tells_why(hosts):
    async with go_peer(arguments=RELAYING) as relay:
        us = await hosts()
        await wait_for_protocol(us, address_of(relay), HOP_PROTOCOL)
        nobody = CircuitAddress(address_of(relay), KeyPair.generate().peer_id)
        with pytest.raises(DialFailed, match="NO_RESERVATION"):
            await us.connect(nobody, timeout_s=PATIENT)


async def test_go_calls_us_through_gos_relay(hosts):
    async with go_peer(arguments=RELAYING) as relay, go_peer(listen=()) as caller:
        us = await hosts()
        await wait_for_protocol(us, address_of(relay), HOP_PROTOCOL)
        slot = await us.reserve(address_of(relay), timeout_s=PATIENT)
        await caller.connect(us.peer_id, str(slot.address).rpartition("/p2p/")[0])
        assert any(c.peer_id == caller.peer_id and c.is_relayed for c in us.connections())


async def wait_for_protocol(host, address, protocol):
    """Go starts its relay a moment after itself."""
    connection = await host.connect(address, timeout_s=PATIENT)
    async with asyncio.timeout(PATIENT):
        while protocol not in (await identify(connection, timeout_s=PATIENT)).protocols:
            await asyncio.sleep(0.1)
