"""A whole relay on loopback, with real nodes' control planes around it."""

import asyncio
import socket
import time

import pytest

from protocol.datagram import Bind, Bound, forwarded
from protocol.identity import KeyPair
from protocol.relay_messages import (
    FORWARD_BYTES_MAX,
    FORWARD_PROTOCOL,
    ForwardGrant,
    ForwardRequest,
    decode_answer,
)
from protocol.rendezvous_messages import (
    RENDEZVOUS_BYTES_MAX,
    RENDEZVOUS_PROTOCOL,
    Discover,
    Discovered,
    Registered,
)
from relay.app import start_relay
from relay.config import RelayConfig
from relay.errors import ConfigInvalid
from relay.resources import CircuitLimits
from tests.binding import with_cookie
from tests.relay.test_records import hello
from transport.address import CircuitAddress, TcpAddress
from transport.control.host import LibP2pHost
from transport.control.messages import read_message, write_message
from transport.errors import DialFailed, RelayRefused, TransportError

ECHO = "/test/echo/1"
TIMEOUT_S = 10


def config_of(home, **chosen):
    ports = {"port": 0, "udp_port": 0, "other_udp_port": 0, "status_port": 0}
    return RelayConfig(home=home, host="127.0.0.1", drain_s=0.2, **{**ports, **chosen})


@pytest.fixture
async def node():
    """Makes nodes that listen nowhere: they are reached through a relay or not at all."""
    hosts = []

    async def make(name):
        hosts.append(await LibP2pHost.start(KeyPair(name.encode().ljust(32, b"."))))
        hosts[-1].set_handler(ECHO, echo)
        return hosts[-1]

    yield make
    await asyncio.gather(*(host.close() for host in hosts))


async def echo(stream):
    while data := await stream.read(65536):
        await stream.write(data)


async def read_exactly(stream, size):
    data = b""
    while len(data) < size:
        more = await stream.read(size - len(data))
        assert more, "the stream ended"
        data += more
    return data


async def echoes(stream, data=b"through the relay"):
    await stream.write(data)
    return await asyncio.wait_for(read_exactly(stream, len(data)), TIMEOUT_S) == data


async def dial(caller, relay, called):
    """A stream to `called` through the relay."""
    address = CircuitAddress(relay, called.peer_id)
    connection = await caller.connect(address, timeout_s=TIMEOUT_S)
    return connection, await connection.open_stream(ECHO, timeout_s=TIMEOUT_S)


def address_of(relay):
    return relay.control.addresses[0]


async def test_nodes_behind_nats_speak_through_circuits_that_are_independent(tmp_path, node):
    async with start_relay(config_of(tmp_path)) as relay:
        here = address_of(relay)
        caller, a, b = await node("caller"), await node("a"), await node("b")
        for called in (a, b):
            reservation = await called.reserve(here, timeout_s=TIMEOUT_S)
            assert reservation.address == CircuitAddress(here, called.peer_id)
        to_a, stream_a = await dial(caller, here, a)
        _, stream_b = await dial(caller, here, b)
        assert stream_a.is_relayed
        assert stream_a.peer_id == a.peer_id
        assert await echoes(stream_a)
        assert relay.counts().circuit_bytes > 0
        await to_a.close()  # D14: py-libp2p's own relay resets b's circuit here
        assert await echoes(stream_b, bytes(300_000))
        async with asyncio.timeout(TIMEOUT_S):
            while relay.circuits.circuits.count != 1:
                await asyncio.sleep(0.01)
        assert sum(relay.counts().circuits_ended.values()) == 1


async def test_reader_that_stalls_holds_little_and_others_go_on(tmp_path, node):
    async with start_relay(config_of(tmp_path)) as relay:
        caller, stalled, brisk = await node("caller"), await node("a"), await node("b")

        async def stall(stream):
            await asyncio.sleep(TIMEOUT_S)

        stalled.set_handler(ECHO, stall)
        for called in (stalled, brisk):
            await called.reserve(address_of(relay), timeout_s=TIMEOUT_S)
        _, stuck = await dial(caller, address_of(relay), stalled)
        _, stream = await dial(caller, address_of(relay), brisk)
        flood = asyncio.create_task(stuck.write(bytes(16 * 1024 * 1024)))
        for _ in range(20):
            assert await echoes(stream, bytes(10_000))
        assert not flood.done()
        assert relay.carrier.bytes_carried < 4 * 1024 * 1024
        flood.cancel()
        await asyncio.gather(flood, return_exceptions=True)
        await stuck.reset()


async def test_reservation_over_a_circuit_is_refused(tmp_path, node):
    """A relay reached through a relay: nobody could call back through both."""
    async with (
        start_relay(config_of(tmp_path / "1")) as first,
        start_relay(config_of(tmp_path / "2")) as second,
    ):
        await second.control.reserve(address_of(first), timeout_s=TIMEOUT_S)
        peer = await node("a")
        through = CircuitAddress(address_of(first), second.control.peer_id)
        connection = await peer.connect(through, timeout_s=TIMEOUT_S)
        stream = await connection.open_stream(FORWARD_PROTOCOL, timeout_s=TIMEOUT_S)
        await write_message(stream, ForwardRequest(first.control.peer_id).encode())
        answer = await read_message(stream, FORWARD_BYTES_MAX, timeout_s=TIMEOUT_S)
        assert decode_answer(ForwardGrant, answer).code == 202
        assert len(second.circuits.reservations) == 0


async def test_called_without_reservation_and_beyond_limits(tmp_path, node):
    limits = CircuitLimits(reservations_max=1)
    async with start_relay(config_of(tmp_path, circuits=limits)) as relay:
        a, b = await node("a"), await node("b")
        with pytest.raises(DialFailed, match="NO_RESERVATION"):
            await dial(a, address_of(relay), b)
        await a.reserve(address_of(relay), timeout_s=TIMEOUT_S)
        with pytest.raises(RelayRefused, match="RESERVATION_REFUSED"):
            await b.reserve(address_of(relay), timeout_s=TIMEOUT_S)
        assert relay.counts().refused == {"no_reservation": 1, "circuits.reservations_max": 1}


async def test_datagrams_pass_the_granted_circuit(tmp_path, node):
    async with start_relay(config_of(tmp_path)) as relay:
        owner, other = await node("a"), await node("b")
        connection = await owner.connect(address_of(relay), timeout_s=TIMEOUT_S)
        stream = await connection.open_stream(FORWARD_PROTOCOL, timeout_s=TIMEOUT_S)
        await write_message(stream, ForwardRequest(other.peer_id).encode())
        data = await read_message(stream, FORWARD_BYTES_MAX, timeout_s=TIMEOUT_S)
        grant = decode_answer(ForwardGrant, data)
        assert grant.host == ""
        sides = [await UdpSide.open(grant.ports[0]) for _ in range(2)]
        for index, secret in enumerate((grant.secret_ours, grant.secret_theirs)):
            asked = Bind(grant.circuit, index, 1)
            sides[index].send(asked.encode(secret))
            sides[index].send(with_cookie(asked, await sides[index].receive()).encode(secret))
            bound = Bound.decode(await sides[index].receive())
            assert (bound.side, bound.is_bound) == (index, True)
        sides[0].send(forwarded(grant.circuit, b"quic"))
        assert await sides[1].receive() == forwarded(grant.circuit, b"quic")
        await stream.close()
        async with asyncio.timeout(TIMEOUT_S):
            while relay.datagrams.forwarder.statistics().circuits:
                await asyncio.sleep(0.01)
        for side in sides:
            side.transport.close()


async def test_records_are_left_and_found(tmp_path, node):
    async with start_relay(config_of(tmp_path)) as relay:
        key = KeyPair(b"a".ljust(32, b"."))
        now_s = int(time.time())
        register = hello(key, issued_at_s=now_s, expires_at_s=now_s + 60)
        assert await ask(await node("a"), relay, Registered, register) == Registered(now_s + 60)
        found = await ask(await node("b"), relay, Discovered, Discover("home", 10))
        assert found.records == (register.record,)


async def test_draining_refuses_what_is_new_and_lets_circuits_run_on(tmp_path, node):
    async with start_relay(config_of(tmp_path)) as relay:
        caller, called = await node("caller"), await node("a")
        await called.reserve(address_of(relay), timeout_s=TIMEOUT_S)
        connection, stream = await dial(caller, address_of(relay), called)
        relay_drain = asyncio.create_task(relay.drain())
        await asyncio.sleep(0)
        with pytest.raises(RelayRefused):
            await caller.reserve(address_of(relay), timeout_s=TIMEOUT_S)
        assert await echoes(stream)
        await connection.close()
        await relay_drain
        assert relay.counts().is_draining


async def test_announced_host_stands_in_every_address(tmp_path, node):
    async with start_relay(config_of(tmp_path, announce_host="203.0.113.9")) as relay:
        port = address_of(relay).port
        announced = TcpAddress("203.0.113.9", port, relay.control.peer_id)
        assert relay.identity.addresses == (str(announced),)


async def test_closing_relay_ends_its_circuits(tmp_path, node):
    async with start_relay(config_of(tmp_path)) as relay:
        caller, called = await node("caller"), await node("a")
        await called.reserve(address_of(relay), timeout_s=TIMEOUT_S)
        _, stream = await dial(caller, address_of(relay), called)
        assert await echoes(stream)
    with pytest.raises((TransportError, AssertionError)):
        await echoes(stream)


@pytest.mark.parametrize(
    ("setting", "kind", "option"),
    [("port", socket.SOCK_STREAM, "--port"), ("udp_port", socket.SOCK_DGRAM, "--udp-port")],
)
async def test_port_that_is_taken_is_said_with_the_way_out(tmp_path, setting, kind, option):
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        with pytest.raises(ConfigInvalid, match=option):
            async with start_relay(config_of(tmp_path, **{setting: taken.getsockname()[1]})):
                pass


async def ask(host, relay, kind, request):
    connection = await host.connect(address_of(relay), timeout_s=TIMEOUT_S)
    stream = await connection.open_stream(RENDEZVOUS_PROTOCOL, timeout_s=TIMEOUT_S)
    await write_message(stream, request.encode())
    return decode_answer(
        kind, await read_message(stream, RENDEZVOUS_BYTES_MAX, timeout_s=TIMEOUT_S)
    )


class UdpSide(asyncio.DatagramProtocol):
    """A plain UDP socket."""

    def __init__(self):
        self.received = asyncio.Queue()

    @classmethod
    async def open(cls, port):
        loop = asyncio.get_running_loop()
        _, side = await loop.create_datagram_endpoint(cls, remote_addr=("127.0.0.1", port))
        return side

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.received.put_nowait(data)

    def send(self, data):
        self.transport.sendto(data)

    async def receive(self):
        return await asyncio.wait_for(self.received.get(), TIMEOUT_S)
