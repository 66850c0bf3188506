"""Control hosts over real TCP: streams, their ends, their bounds, and peers that go away."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import KeyPair
from tests.transport.control_hosts import control_hosts, echo, read_all, read_exactly, until
from transport.address import Address, TcpAddress
from transport.control.host import LibP2pHost
from transport.control.identify import identify, ping
from transport.control.settings import ControlSettings
from transport.errors import (
    DialFailed,
    PeerGone,
    ProtocolNotSupported,
    StreamReset,
    TimedOut,
    TransportError,
)

ECHO = "/test/echo/1"
PATIENT = 10


async def connect(a, b):
    return await a.connect(b.addresses[0], timeout_s=PATIENT)


async def assert_echo(stream, data=b"there and back"):
    await stream.write(data)
    assert await read_exactly(stream, len(data)) == data


async def test_a_megabyte_comes_back_as_it_was_sent():
    async with control_hosts(2) as (a, b):
        b.set_handler(ECHO, echo)
        stream = await (await connect(a, b)).open_stream(ECHO, timeout_s=PATIENT)
        data = os.urandom(1 << 20)
        _, received = await asyncio.gather(stream.write(data), read_exactly(stream, len(data)))
        assert received == data
        assert stream.peer_id == b.peer_id
        assert not stream.is_relayed
        assert stream.remote == f"127.0.0.1:{b.addresses[0].port}"


async def test_after_the_end_of_one_direction_the_other_goes_on():
    async with control_hosts(2) as (a, b):

        async def count(stream):
            size = len(await read_all(stream))
            await stream.write(str(size).encode())

        b.set_handler(ECHO, count)
        stream = await (await connect(a, b)).open_stream(ECHO, timeout_s=PATIENT)
        await stream.write(b"x" * 300_000)
        await stream.finish()
        await stream.finish()
        with pytest.raises(LocalProtocolError):
            await stream.write(b"more")
        assert await read_all(stream) == b"300000"


async def test_a_reset_is_seen_by_both_reader_and_writer():
    async with control_hosts(2) as (a, b):

        async def refuse(stream):
            await stream.read(1)
            await stream.reset()

        b.set_handler(ECHO, refuse)
        stream = await (await connect(a, b)).open_stream(ECHO, timeout_s=PATIENT)
        await stream.write(b"x")
        with pytest.raises(StreamReset):
            await stream.read(1)
        with pytest.raises(StreamReset):
            await stream.write(b"x")


async def test_a_handler_that_raises_resets_its_stream_and_nothing_else():
    async with control_hosts(2) as (a, b):

        async def fail(stream):
            await stream.read(1)
            raise RemoteProtocolError("no")

        b.set_handler("/test/fail/1", fail)
        b.set_handler(ECHO, echo)
        connection = await connect(a, b)
        failing = await connection.open_stream("/test/fail/1", timeout_s=PATIENT)
        await failing.write(b"x")
        with pytest.raises(StreamReset):
            await failing.read(1)
        stream = await connection.open_stream(ECHO, timeout_s=PATIENT)
        await stream.write(b"still here")
        assert await read_exactly(stream, 10) == b"still here"


async def test_what_was_written_before_the_connection_closed_is_still_read():
    async with control_hosts(2) as (a, b):
        has_written = asyncio.Event()

        async def write(stream):
            await stream.write(b"y" * 200_000)
            await stream.finish()
            has_written.set()
            await asyncio.Event().wait()

        b.set_handler(ECHO, write)
        connection = await connect(a, b)
        stream = await connection.open_stream(ECHO, timeout_s=PATIENT)
        assert await stream.read(1) == b"y"
        await has_written.wait()
        await asyncio.sleep(0.1)
        await b.close()
        await connection.wait_closed()
        assert len(await read_all(stream)) == 199_999


async def test_a_lost_connection_is_not_the_end_of_a_stream():
    async with control_hosts(2) as (a, b):
        b.set_handler(ECHO, echo)
        connection = await connect(a, b)
        stream = await connection.open_stream(ECHO, timeout_s=PATIENT)
        await b.close()
        with pytest.raises(PeerGone):
            await stream.read(1)
        with pytest.raises(PeerGone):
            await stream.write(b"x")
        await connection.wait_closed()
        assert connection.is_closed
        assert a.connections() == ()
        with pytest.raises(PeerGone):
            await connection.open_stream(ECHO, timeout_s=PATIENT)


async def test_a_cancelled_read_loses_nothing():
    async with control_hosts(2) as (a, b):
        b.set_handler(ECHO, echo)
        stream = await (await connect(a, b)).open_stream(ECHO, timeout_s=PATIENT)
        for index in range(20):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001 * (index % 3)):
                    await stream.read(100)
        await stream.write(b"all of it")
        assert await read_exactly(stream, 9) == b"all of it"


CHILD = """
import asyncio
from protocol.identity import KeyPair
from transport.control.host import LibP2pHost
async def hold(stream):
    await asyncio.Event().wait()
async def main():
    host = await LibP2pHost.start(KeyPair.generate(), listen=[("127.0.0.1", 0)])
    host.set_handler("/test/echo/1", hold)
    print(host.addresses[0], flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture
async def child():
    """A host in a process of its own, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    )
    try:
        line = await asyncio.to_thread(process.stdout.readline)
        yield process, TcpAddress.from_text(line.strip())
    finally:
        process.kill()
        process.communicate()


async def test_a_peer_that_is_killed_is_noticed(child):
    process, address = child
    async with control_hosts(1, listen=()) as (a,):
        connection = await a.connect(address, timeout_s=PATIENT)
        stream = await connection.open_stream(ECHO, timeout_s=PATIENT)
        process.kill()
        with pytest.raises(PeerGone):
            await asyncio.wait_for(stream.read(1), 5)
        await asyncio.wait_for(connection.wait_closed(), 5)


async def test_a_peer_that_falls_silent_is_given_up_but_not_one_that_is_idle(child):
    process, address = child
    quick = ControlSettings(keepalive_s=0.1, idle_timeout_s=0.6)
    async with control_hosts(1, listen=(), settings=quick) as (a,):
        connection = await a.connect(address, timeout_s=PATIENT)
        stream = await connection.open_stream(ECHO, timeout_s=PATIENT)
        await asyncio.sleep(1.2)
        assert not connection.is_closed
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(PeerGone, match="Nothing was heard"):
            await asyncio.wait_for(stream.read(1), 5)
        await asyncio.wait_for(connection.wait_closed(), 5)


async def test_another_peer_id_than_the_dialled_one_is_refused():
    async with control_hosts(2) as (a, b):
        wrong = TcpAddress("127.0.0.1", b.addresses[0].port, KeyPair.generate().peer_id)
        with pytest.raises(DialFailed, match="another PeerId"):
            await a.connect(wrong, timeout_s=PATIENT)
        assert a.connections() == ()
        await until(lambda: b.connections() == ())


async def test_a_dial_says_why_it_failed():
    async with control_hosts(1) as (a,):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        peer = KeyPair.generate().peer_id
        with pytest.raises(DialFailed, match="refused"):
            await a.connect(TcpAddress("127.0.0.1", port, peer), timeout_s=PATIENT)
        with pytest.raises(DialFailed, match="our own"):
            await a.connect(a.addresses[0], timeout_s=PATIENT)
        with pytest.raises(RemoteProtocolError, match="data socket"):
            await a.connect(Address("127.0.0.1", port, peer), timeout_s=PATIENT)
        with socket.create_server(("127.0.0.1", 0)) as mute:
            address = TcpAddress("127.0.0.1", mute.getsockname()[1], peer)
            with pytest.raises(DialFailed, match="in time"):
                await a.connect(address, timeout_s=0.1)


async def test_dials_at_the_same_time_share_one_connection():
    async with control_hosts(2) as (a, b):
        made = await asyncio.gather(*(connect(a, b) for _ in range(5)))
        assert len(set(made)) == 1
        assert await connect(a, b) is made[0]
        await until(lambda: len(b.connections()) == 1)
        await made[0].close()
        assert await connect(a, b) is not made[0]


async def test_an_unknown_protocol_is_refused_by_name():
    async with control_hosts(2) as (a, b):
        connection = await connect(a, b)
        stream = await connection.open_stream("/nobody/speaks/1", timeout_s=PATIENT)
        with pytest.raises(ProtocolNotSupported, match="/nobody/speaks/1"):
            await stream.read(1)
        b.set_handler(ECHO, echo)
        await assert_echo(await connection.open_stream(ECHO, timeout_s=PATIENT))
        b.set_handler(ECHO, None)
        stream = await connection.open_stream(ECHO, timeout_s=PATIENT)
        await stream.write(b"what is no protocol line at all" * 10)
        with pytest.raises(ProtocolNotSupported):
            await stream.read(1)
        with pytest.raises(TransportError):
            await stream.write(b"more")
        assert not connection.is_closed


async def test_a_read_that_is_cancelled_before_the_peer_has_agreed_loses_nothing():
    async with control_hosts(2) as (a, b):
        may_answer = asyncio.Event()

        async def late(stream):
            await may_answer.wait()
            await stream.write(b"whole")

        b.set_handler("/test/late/1", late)
        stream = await (await connect(a, b)).open_stream("/test/late/1", timeout_s=PATIENT)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await stream.read(1)
        may_answer.set()
        assert await read_all(stream) == b"whole"


async def test_a_slow_reader_stops_its_writer_and_no_other_stream():
    async with control_hosts(2) as (a, b):
        may_read = asyncio.Event()

        async def slow(stream):
            await stream.read(1)
            await may_read.wait()
            await stream.write(str(len(await read_all(stream))).encode())

        b.set_handler("/test/slow/1", slow)
        b.set_handler(ECHO, echo)
        connection = await connect(a, b)
        stream = await connection.open_stream("/test/slow/1", timeout_s=PATIENT)
        sent = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    await stream.write(bytes(65536))
                    sent += 65536
        assert sent <= ControlSettings().wide_window_bytes
        other = await connection.open_stream(ECHO, timeout_s=PATIENT)
        await other.write(b"free")
        assert await read_exactly(other, 4) == b"free"
        may_read.set()
        await stream.finish()
        assert int(await read_all(stream)) in (sent - 1, sent + 65536 - 1)


async def test_two_hundred_streams_of_one_connection():
    async with control_hosts(2) as (a, b):
        b.set_handler(ECHO, echo)
        connection = await connect(a, b)

        async def one(index):
            stream = await connection.open_stream(ECHO, timeout_s=PATIENT)
            await stream.write(bytes((index,)) * 1000)
            await stream.finish()
            assert await read_all(stream) == bytes((index,)) * 1000
            await stream.close()

        await asyncio.gather(*(one(index) for index in range(200)))
        await asyncio.gather(*(one(index) for index in range(200)))


async def test_streams_above_the_limit_are_reset():
    few = ControlSettings(streams_max=4)
    async with control_hosts(1, settings=few) as (b,), control_hosts(1) as (a,):
        b.set_handler(ECHO, echo)
        connection = await connect(a, b)
        held = [await connection.open_stream(ECHO, timeout_s=PATIENT) for _ in range(4)]
        for stream in held:
            await assert_echo(stream)
        with pytest.raises(TransportError):
            await assert_echo(await connection.open_stream(ECHO, timeout_s=PATIENT))
        await held.pop().reset()
        # Its place is free when the handler at the other end has seen the reset.
        async with asyncio.timeout(PATIENT):
            while True:
                with contextlib.suppress(TransportError):
                    await assert_echo(await connection.open_stream(ECHO, timeout_s=PATIENT))
                    break
                await asyncio.sleep(0.01)
        back = b.connections()[0]
        with pytest.raises(PeerGone, match="limit"):
            await back.open_stream(ECHO, timeout_s=PATIENT)


async def test_connections_above_the_limits_are_closed():
    few = ControlSettings(connections_max=3, connections_per_peer_max=1)
    async with control_hosts(1, settings=few) as (b,), control_hosts(4, listen=()) as others:
        first = await connect(others[0], b)
        for other in others[1:3]:
            await connect(other, b)
        await until(lambda: len(b.connections()) == 3)  # who dials knows it half a turn earlier
        with pytest.raises(DialFailed):
            await connect(others[3], b)
        assert len(b.connections()) == 3
        await first.close()
        await until(lambda: len(b.connections()) == 2)
        await connect(others[3], b)


async def test_a_stream_that_names_no_protocol_is_reset():
    quick = ControlSettings(negotiation_timeout_s=0.2)
    async with control_hosts(1, settings=quick) as (b,), control_hosts(1) as (a,):
        connection = await connect(a, b)
        mute = connection.stream(await connection._open_muxed())
        with pytest.raises(StreamReset):
            await asyncio.wait_for(mute.read(1), 5)


async def test_a_peer_that_does_not_answer_is_not_waited_for():
    async with control_hosts(2) as (a, b):
        connection = await connect(a, b)
        with pytest.raises(TimedOut):
            await connection.open_stream(ECHO, timeout_s=0)


async def test_ping_and_identify_are_answered_and_asked():
    async with control_hosts(2) as (a, b):
        b.set_handler(ECHO, echo)
        connection = await connect(a, b)
        assert 0 < await ping(connection, timeout_s=PATIENT) < PATIENT
        identity = await identify(connection, timeout_s=PATIENT)
        assert identity.agent == "piecework"
        assert ECHO in identity.protocols
        assert identity.public_key[-32:] == b.peer_id.public_key
        assert len(identity.listen_addresses) == 1
        assert identity.observed_address.startswith(b"\x04\x7f\0\0\x01\x06")


async def test_a_wildcard_is_never_advertised():
    async with control_hosts(1, listen=(("0.0.0.0", 0),)) as (a,):
        assert all(address.host not in ("0.0.0.0", "127.0.0.1") for address in a.addresses)
    async with control_hosts(1, listen=()) as (a,):
        assert a.addresses == ()


async def test_ipv6_works_where_the_machine_has_it():
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    async with control_hosts(2, listen=(("::1", 0),)) as (a, b):
        b.set_handler(ECHO, echo)
        stream = await (await connect(a, b)).open_stream(ECHO, timeout_s=PATIENT)
        assert stream.remote.startswith("[::1]:")


async def test_a_port_in_use_is_said_in_a_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TransportError, match=f"TCP port {port}"):
            await LibP2pHost.start(KeyPair.generate(), listen=(("127.0.0.1", port),))


async def test_twenty_hosts_all_talk_to_one_another():
    async with control_hosts(20) as hosts:
        for host in hosts:
            host.set_handler(ECHO, echo)

        async def talk(one, other):
            stream = await (await connect(one, other)).open_stream(ECHO, timeout_s=PATIENT)
            await stream.write(b"hello")
            assert await read_exactly(stream, 5) == b"hello"

        for step in (1, 7):
            await asyncio.gather(
                *(talk(host, hosts[(i + step) % 20]) for i, host in enumerate(hosts))
            )


async def test_fifty_hosts_start_and_close_and_leave_no_thread():
    before = set(threading.enumerate())
    for _ in range(5):
        async with control_hosts(10):
            pass
    assert {t for t in threading.enumerate() if t.name.startswith("control-")} <= before


async def test_closing_ends_handlers_and_waiting_calls_and_can_be_repeated():
    async with control_hosts(2) as (a, b):
        ended = asyncio.Event()

        async def hold(stream):
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        b.set_handler(ECHO, hold)
        stream = await (await connect(a, b)).open_stream(ECHO, timeout_s=PATIENT)
        waiting = asyncio.create_task(stream.read(1))
        await asyncio.sleep(0.05)
        await b.close()
        await b.close()
        assert ended.is_set()
        with pytest.raises(TransportError):
            await waiting
        await a.close()
        with pytest.raises(DialFailed, match="closed"):
            await connect(a, b)


def test_importing_the_interface_does_not_import_the_library():
    modules = "transport.control.host, transport.control.circuit"
    code = f"import sys, {modules}; print('libp2p' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert output.stdout.strip() == "False", output.stderr
