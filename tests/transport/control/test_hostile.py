"""Strangers at the TCP port: garbage, floods, downgrades, and peers that break their windows."""

import asyncio
import contextlib
import os
import random

import pytest

from tests.transport.control_hosts import control_hosts, echo, read_exactly, until
from transport.control.identify import ping
from transport.control.settings import ControlSettings

ECHO = "/test/echo/1"
PATIENT = 10


async def strangers(address, count, data=b""):
    """`count` TCP connections that have sent `data`."""
    made = await asyncio.gather(
        *(asyncio.open_connection(address.host, address.port) for _ in range(count))
    )
    for _, writer in made:
        writer.write(data)
    return made


async def close(made):
    for _, writer in made:
        writer.transport.abort()
    await asyncio.sleep(0)


async def assert_serves(host, other):
    connection = await other.connect(host.addresses[0], timeout_s=PATIENT)
    assert await ping(connection, timeout_s=PATIENT) < PATIENT
    await connection.close()


async def test_hundreds_of_connections_with_random_bytes_harm_nothing():
    dice = random.Random(1)
    quick = ControlSettings(handshake_timeout_s=1)
    async with control_hosts(2, settings=quick) as (a, b):
        for _ in range(6):
            made = await strangers(b.addresses[0], 50, dice.randbytes(dice.randrange(1, 2000)))
            for _, writer in made[:25]:
                writer.close()
            await assert_serves(b, a)
            await close(made)
        await until(lambda: b.connections() == ())


async def test_a_stranger_that_sends_without_end_is_cut_off():
    async with control_hosts(1) as (b,):
        ((reader, writer),) = await strangers(b.addresses[0], 1)
        # multistream's first line says that 256 MiB follow; they are not waited for
        writer.write(b"\x80\x80\x80\x80\x01")
        sent_count = 0
        with contextlib.suppress(ConnectionError):
            while sent_count < 10_000:
                writer.write(bytes(65536))
                await writer.drain()
                sent_count += 1
        assert sent_count < 1000
        await close([(reader, writer)])


async def test_a_flood_of_half_open_connections_is_bounded_and_others_get_in():
    few = ControlSettings(half_open_max=8)
    async with control_hosts(1, settings=few) as (b,), control_hosts(1) as (a,):
        made = await strangers(b.addresses[0], 100)
        await assert_serves(b, a)

        async def is_ended(reader):
            try:
                return len(await reader.read(1 << 16)) == 0 or await reader.read(1) == b""
            except ConnectionError:
                return True

        async def count_ended():
            checks = [asyncio.create_task(is_ended(reader)) for reader, _ in made]
            done, pending = await asyncio.wait(checks, timeout=1)
            for check in pending:
                check.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            return len(done)

        assert await count_ended() >= 100 - 8
        await close(made)


async def test_a_half_open_connection_is_dropped_in_time():
    quick = ControlSettings(handshake_timeout_s=1)
    async with control_hosts(1, settings=quick) as (b,):
        ((reader, writer),) = await strangers(b.addresses[0], 1)
        async with asyncio.timeout(5):
            while await reader.read(1000):
                pass
        writer.close()


@pytest.mark.parametrize("security", [b"/plaintext/2.0.0", b"/secio/1.0.0", b"/tls/1.0.0"])
async def test_nothing_but_noise_is_agreed_to_d12(security):
    async with control_hosts(1) as (b,):
        ((reader, writer),) = await strangers(b.addresses[0], 1)
        for line in (b"/multistream/1.0.0\n", security + b"\n", b"/noise\n"):
            writer.write(bytes((len(line),)) + line)
        async with asyncio.timeout(5):
            answer = await reader.readexactly(20 + 4 + 8)
        assert answer[20:] == b"\x03na\n\x07/noise\n"
        await close([(reader, writer)])


async def test_bytes_changed_on_the_way_end_the_connection_and_nothing_else():
    quick = ControlSettings(keepalive_s=0.1, idle_timeout_s=0.5)
    async with control_hosts(2, settings=quick) as (a, b):
        b.set_handler(ECHO, echo)
        changes = asyncio.Event()

        async def pump(reader, writer):
            while data := await reader.read(65536):
                writer.write(data if not changes.is_set() else os.urandom(len(data)))

        async def serve(reader, writer):
            there = await asyncio.open_connection("127.0.0.1", b.addresses[0].port)
            try:
                await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))
            except ConnectionError:
                pass
            finally:
                there[1].close()
                writer.close()

        wire = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = wire.sockets[0].getsockname()[1]
        address = type(b.addresses[0])("127.0.0.1", port, b.peer_id)
        connection = await a.connect(address, timeout_s=PATIENT)
        stream = await connection.open_stream(ECHO, timeout_s=PATIENT)
        await stream.write(b"hello")
        assert await read_exactly(stream, 5) == b"hello"
        changes.set()
        await stream.write(b"hello")
        await until(lambda: b.connections() == ())
        await asyncio.wait_for(connection.wait_closed(), 5)
        wire.close()
        await assert_serves(b, a)
