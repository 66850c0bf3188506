"""Peers that leave, die, fall silent, or come back from another address."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import pytest

from tests.transport.conftest import ECHO, StartHost
from transport.address import Address
from transport.base import Stream
from transport.errors import PeerGone
from transport.quic.host import QuicHost
from transport.quic.settings import QuicSettings

IMPATIENT = QuicSettings(keepalive_s=0.1, idle_timeout_s=0.5)
"""Quiet for longer than the idle timeout, it lives by its pings."""

FAST = QuicSettings(keepalive_s=0.2, ping_interval_s=0.3, silence_max_s=1.2)

CHILD = """
import asyncio
from protocol.identity import KeyPair
from transport.quic.host import QuicHost

async def echo(stream):
    while (frame := await stream.receive()) is not None:
        await stream.send(frame)

async def main():
    host = await QuicHost.start(KeyPair.generate(), listen_host="127.0.0.1")
    host.set_handler("/test/echo/1", echo)
    print(host.addresses[0], flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@asynccontextmanager
async def another_process() -> AsyncIterator[tuple[subprocess.Popen[str], Address]]:
    """A host that echoes in a process of its own; killed in the end."""
    child = await asyncio.to_thread(
        subprocess.Popen, [sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        line = await asyncio.to_thread(child.stdout.readline)
        yield child, Address.from_text(line.strip())
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


class Proxy:
    """A NAT on loopback between one client and one server; `reboot` takes another port."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.server = server
        self.client: tuple[str, int] | None = None
        self.seen: list[bytes] = []
        self.is_cut = False
        self.loop = asyncio.get_running_loop()
        self.inside = self.open(self.from_client)
        self.outside = self.open(self.from_server)

    def open(self, callback) -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.setblocking(False)
        opened.bind(("127.0.0.1", 0))
        self.loop.add_reader(opened, callback, opened)
        return opened

    def shut(self, opened: socket.socket) -> None:
        self.loop.remove_reader(opened)
        opened.close()

    def reboot(self) -> None:
        self.shut(self.outside)
        self.outside = self.open(self.from_server)

    def close(self) -> None:
        self.shut(self.inside)
        self.shut(self.outside)

    def from_client(self, opened: socket.socket) -> None:
        data, self.client = opened.recvfrom(65536)
        self.seen.append(data)
        if self.is_cut:
            return
        self.outside.sendto(data, self.server)

    def from_server(self, opened: socket.socket) -> None:
        data, _ = opened.recvfrom(65536)
        if self.client is not None and not self.is_cut:
            self.inside.sendto(data, self.client)


async def connect_through(proxy: Proxy, here: QuicHost, there: QuicHost) -> Stream:
    address = Address("127.0.0.1", proxy.inside.getsockname()[1], there.peer_id)
    connection = await here.connect(there.peer_id, [address], timeout_s=5)
    return await connection.open_stream(ECHO)


async def assert_echo(stream: Stream, frame: bytes = b"hello") -> None:
    async with asyncio.timeout(5):
        await stream.send(frame)
        assert await stream.receive() == frame


class TestGoodbye:
    async def test_closed_host_is_seen_at_once(self, start_host: StartHost):
        here, there = await start_host(), await start_host()
        connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
        stream = await connection.open_stream(ECHO)
        await assert_echo(stream)
        reading = asyncio.create_task(stream.receive())
        await asyncio.sleep(0)
        began = monotonic()
        await there.close()
        with pytest.raises(PeerGone, match="shut down"):
            await reading
        assert monotonic() - began < 0.5
        with pytest.raises(PeerGone):
            await stream.send(b"x")
        with pytest.raises(PeerGone):
            await connection.open_stream(ECHO)
        assert not here.connections()

    async def test_closed_connection_is_seen_at_once_and_can_be_made_again(
        self, start_host: StartHost
    ):
        here, there = await start_host(), await start_host()
        connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
        await assert_echo(await connection.open_stream(ECHO))
        stream = await connection.open_stream(ECHO)
        await connection.close()
        await connection.close()
        with pytest.raises(PeerGone, match="This side"):
            await stream.receive()
        assert not here.connections()
        await asyncio.sleep(0.05)
        assert not there.connections()
        again = await here.connect(there.peer_id, there.addresses, timeout_s=5)
        await assert_echo(await again.open_stream(ECHO))

    async def test_frames_that_arrived_before_the_goodbye_can_be_read(self, start_host: StartHost):
        here, there = await start_host(), await start_host()

        async def send_three(stream: Stream) -> None:
            for index in range(3):
                await stream.send(bytes([index]))
            await asyncio.Event().wait()

        there.set_handler("/test/three/1", send_three)
        connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
        stream = await connection.open_stream("/test/three/1")
        await asyncio.sleep(0.05)
        await there.close()
        await asyncio.sleep(0.05)
        assert [await stream.receive() for _ in range(3)] == [b"\0", b"\1", b"\2"]
        with pytest.raises(PeerGone):
            await stream.receive()


class TestSilence:
    async def test_killed_process_is_noticed(self, start_host: StartHost):
        here = await start_host(FAST)
        async with another_process() as (child, address):
            connection = await here.connect(address.peer_id, [address], timeout_s=5)
            stream = await connection.open_stream(ECHO)
            await assert_echo(stream)
            os.kill(child.pid, signal.SIGKILL)
            began = monotonic()
            with pytest.raises(PeerGone, match="nothing was heard for"):
                await stream.receive()
            assert monotonic() - began < 3
            assert not here.connections()

    async def test_stopped_process_is_gone_and_learns_it_when_it_goes_on(
        self, start_host: StartHost
    ):
        here = await start_host(FAST)
        async with another_process() as (child, address):
            connection = await here.connect(address.peer_id, [address], timeout_s=5)
            stream = await connection.open_stream(ECHO)
            await assert_echo(stream)
            os.kill(child.pid, signal.SIGSTOP)
            with pytest.raises(PeerGone, match="nothing was heard"):
                await stream.receive()
            os.kill(child.pid, signal.SIGCONT)
            again = await here.connect(address.peer_id, [address], timeout_s=5)
            await assert_echo(await again.open_stream(ECHO))

    async def test_host_whose_own_loop_stood_still_keeps_its_peers(self, start_host: StartHost):
        here = await start_host(FAST)
        async with another_process() as (_, address):
            connection = await here.connect(address.peer_id, [address], timeout_s=5)
            stream = await connection.open_stream(ECHO)
            await assert_echo(stream)
            await asyncio.sleep(0.1)
            time.sleep(2.0)  # more than the silence that would be death
            await asyncio.sleep(0.8)
            await assert_echo(stream)

    async def test_two_hosts_that_both_stood_still_keep_each_other(self, start_host: StartHost):
        settings = QuicSettings(keepalive_s=0.2, idle_timeout_s=1.0)
        here, there = await start_host(settings), await start_host(settings)
        connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
        stream = await connection.open_stream(ECHO)
        await assert_echo(stream)
        await asyncio.sleep(0.1)
        time.sleep(1.5)  # one loop drives both: neither heard anything for the idle timeout
        await asyncio.sleep(0.3)
        await assert_echo(stream)

    async def test_idle_timeout_stands_behind_it(self, start_host: StartHost):
        patient = QuicSettings(idle_timeout_s=0.5, silence_max_s=60)
        here, there = await start_host(patient), await start_host()
        proxy = Proxy(("127.0.0.1", there.addresses[0].port))
        try:
            stream = await connect_through(proxy, here, there)
            await assert_echo(stream)
            proxy.is_cut = True
            with pytest.raises(PeerGone, match="Idle timeout"):
                await stream.receive()
        finally:
            proxy.close()

    async def test_quiet_link_is_kept_alive(self, start_host: StartHost):
        here, there = await start_host(IMPATIENT), await start_host(IMPATIENT)
        connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
        stream = await connection.open_stream(ECHO)
        await asyncio.sleep(1.2)
        await assert_echo(stream)


class TestMoving:
    async def test_clients_nat_reboots_under_a_living_stream(self, start_host: StartHost):
        here, there = await start_host(), await start_host()
        proxy = Proxy(("127.0.0.1", there.addresses[0].port))
        try:
            stream = await connect_through(proxy, here, there)
            await assert_echo(stream, b"x" * 100_000)
            before = there.connections()[0].remote
            proxy.reboot()
            await assert_echo(stream, b"y" * 300_000)
            (connection,) = there.connections()
            assert connection.remote != before
            assert connection.remote == f"127.0.0.1:{proxy.outside.getsockname()[1]}"
            assert connection.path.is_proved
        finally:
            proxy.close()

    async def test_replayed_datagrams_do_not_move_the_path(self, start_host: StartHost, caplog):
        caplog.set_level("INFO", "transport")
        here, there = await start_host(), await start_host()
        server = ("127.0.0.1", there.addresses[0].port)
        proxy = Proxy(server)
        try:
            stream = await connect_through(proxy, here, there)
            await assert_echo(stream, b"x" * 50_000)
            before = there.connections()[0].remote
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
                for data in proxy.seen:
                    attacker.sendto(data, server)
                    forged = bytearray(data)
                    forged[-1] ^= 1
                    attacker.sendto(forged, server)
            await asyncio.sleep(0.05)
            assert there.connections()[0].remote == before
            assert "moved" not in caplog.text
            await assert_echo(stream)
        finally:
            proxy.close()

    async def test_address_that_does_not_answer_gets_little(self, start_host: StartHost):
        """A source that was forged: what it is sent must not be an attack on its owner."""
        here, there = await start_host(), await start_host()

        async def pour(stream: Stream) -> None:
            await stream.receive()
            for _ in range(20):
                await stream.send(bytes(50_000))

        there.set_handler("/test/pour/1", pour)
        proxy = Proxy(("127.0.0.1", there.addresses[0].port))
        try:
            stream = await connect_through(proxy, here, there)
            await assert_echo(stream)
            (connection,) = here.connections()
            proxy.seen.clear()
            victim_bytes = 0

            def swallow(opened: socket.socket) -> None:
                nonlocal victim_bytes
                victim_bytes += len(opened.recv(65536))

            proxy.from_server = swallow  # type: ignore[method-assign]
            proxy.reboot()
            await (await connection.open_stream("/test/pour/1")).send(b"pour")
            await asyncio.sleep(0.3)
            assert 0 < victim_bytes <= 3 * sum(map(len, proxy.seen))
            assert not there.connections()[0].path.is_proved
        finally:
            proxy.close()
