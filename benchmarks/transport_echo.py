"""How fast a frame comes back, and how many go through: our data socket against stock aioquic.

Both ends, and both transports, run in one process on one core over loopback, one after the other in
the same run; so compare rows with each other and not with another machine's. On a busy machine
trust the CPU rows: wall time then holds other processes' turns of some ms each.
"""

import asyncio
import gc
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from statistics import median
from time import perf_counter, process_time

import aioquic.asyncio
import uvloop
from aioquic.quic.configuration import QuicConfiguration

from benchmarks.row import Row
from protocol.identity import KeyPair
from transport.base import Stream
from transport.certificate import make_certificate
from transport.framing import LENGTH_BYTES, encode_length
from transport.quic import QuicHost
from transport.settings import QuicSettings

__all__ = ["rows"]

PROTOCOL = "/benchmark/echo/1"
ECHO_BYTES = 16 * 1024
ECHO_COUNT = 400
ROUNDS = 5
MIB = 1024 * 1024

Exchange = Callable[[bytes], Awaitable[bytes]]
"""Sends one frame and returns the one that comes back."""

Bulk = Callable[[int], Awaitable[None]]
"""Sends that many MiB and waits until all has arrived."""

MARKS = ("<= 1.4 ms", ">= 30 MiB/s")
"""What the prototype driver reached at 1452 B (1.32 ms, 33-35 MiB/s), with room for the machine."""


def rows() -> list[Row]:
    """Takes about ten seconds."""
    return uvloop.run(_measure())


async def _measure() -> list[Row]:
    gc.collect()
    gc.freeze()
    measured: list[Row] = []
    for size in (8900, 1452, 1200):
        settings = replace(QuicSettings(), loopback_datagram_bytes=size)
        async with _ours(settings) as (exchange, bulk):
            marks = MARKS if size == 1452 else ("", "")
            measured += await _rows(f"QuicHost, {size} B datagrams", exchange, bulk, 5, marks)
    async with _stock() as (exchange, bulk):
        measured += await _rows("stock aioquic.asyncio, 1200 B datagrams", exchange, bulk, 2)
    return measured


async def _rows(
    name: str, exchange: Exchange, bulk: Bulk, bulk_mib: int, marks: tuple[str, str] = ("", "")
) -> list[Row]:
    frame = bytes(ECHO_BYTES)
    for _ in range(50):
        await exchange(frame)
    times_ms = sorted([1000 * await _timed(exchange, frame) for _ in range(ECHO_COUNT)])
    rates, costs = [], []
    for _ in range(ROUNDS):
        wall, cpu = perf_counter(), process_time()
        await bulk(bulk_mib)
        rates.append(bulk_mib / (perf_counter() - wall))
        costs.append(1000 * (process_time() - cpu) / bulk_mib)
    echo, one_way = "16 KiB there and back", f"{bulk_mib} MiB one way"
    return [
        Row(f"{name}: echo p50", echo, median(times_ms), "ms", marks[0]),
        Row(f"{name}: echo p99", echo, times_ms[int(0.99 * len(times_ms))], "ms"),
        Row(f"{name}: throughput", one_way, median(rates), "MiB/s", marks[1], _spread(rates)),
        Row(f"{name}: CPU, both ends", one_way, median(costs), "ms/MiB", "", _spread(costs)),
    ]


def _spread(values: list[float]) -> str:
    return f"{min(values):.3g}-{max(values):.3g}"


async def _timed(exchange: Exchange, frame: bytes) -> float:
    began = perf_counter()
    assert len(await exchange(frame)) == len(frame)
    return perf_counter() - began


@asynccontextmanager
async def _ours(
    settings: QuicSettings,
) -> AsyncIterator[tuple[Exchange, Bulk]]:
    async def serve(stream: Stream) -> None:
        while (frame := await stream.receive()) is not None:
            if len(frame) < MIB:
                await stream.send(frame)

    here = await QuicHost.start(KeyPair.generate(), listen_host="127.0.0.1", settings=settings)
    there = await QuicHost.start(KeyPair.generate(), listen_host="127.0.0.1", settings=settings)
    there.set_handler(PROTOCOL, serve)
    connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
    stream = await connection.open_stream(PROTOCOL)

    async def exchange(frame: bytes) -> bytes:
        await stream.send(frame)
        answer = await stream.receive()
        assert answer is not None
        return answer

    async def bulk(mib: int) -> None:
        frame = bytes(MIB)
        for _ in range(mib):
            await stream.send(frame)
        await exchange(b"done")

    yield exchange, bulk
    await here.close()
    await there.close()


@asynccontextmanager
async def _stock() -> AsyncIterator[tuple[Exchange, Bulk]]:
    identity = make_certificate(KeyPair.generate())
    server = QuicConfiguration(is_client=False, alpn_protocols=["benchmark"])
    server.certificate, server.private_key = identity.certificate, identity.private_key
    client = QuicConfiguration(alpn_protocols=["benchmark"], verify_mode=ssl.CERT_NONE)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                frame = await _read_frame(reader)
                if len(frame) < MIB:
                    writer.write(encode_length(len(frame)) + frame)
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    def on_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(serve(reader, writer)))

    quic_server = await aioquic.asyncio.serve(
        "127.0.0.1", 0, configuration=server, stream_handler=on_stream
    )
    port = quic_server._transport.get_extra_info("sockname")[1]
    async with aioquic.asyncio.connect("127.0.0.1", port, configuration=client) as protocol:
        reader, writer = await protocol.create_stream()

        async def exchange(frame: bytes) -> bytes:
            writer.write(encode_length(len(frame)) + frame)
            return await _read_frame(reader)

        async def bulk(mib: int) -> None:
            frame = bytes(MIB)
            for _ in range(mib):
                writer.write(encode_length(len(frame)) + frame)
            await exchange(b"done")

        yield exchange, bulk
    quic_server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
    return await reader.readexactly(size)
