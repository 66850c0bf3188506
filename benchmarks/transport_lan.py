"""The LAN's fast path (TCP + TLS 1.3) against the data socket with jumbo datagrams, in one run.

Both ends, and both carriers, run in one process on one core over loopback, one after the other; so
compare rows with each other and not with another machine's. On a busy machine trust the CPU rows.
"""

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from statistics import median
from time import perf_counter, process_time

import uvloop

from benchmarks.row import Row
from protocol.identity import KeyPair
from transport.base import Connection, Stream
from transport.lan.fast_lan import FastLan
from transport.quic.host import QuicHost

__all__ = ["rows"]

PROTOCOL = "/benchmark/echo/1"
ECHO_BYTES = 16 * 1024
ECHO_COUNT = 1000
OPEN_COUNT = 100
ROUNDS = 5
MIB = 1024 * 1024

Open = Callable[[], Awaitable[Stream]]


def rows() -> list[Row]:
    """Takes about ten seconds."""
    return uvloop.run(_measure())


async def _measure() -> list[Row]:
    gc.collect()
    gc.freeze()
    async with _pair() as (fast_lan, connection):

        async def over_tcp() -> Stream:
            stream = await fast_lan.open(connection, PROTOCOL)
            assert stream is not None, fast_lan.verdicts()
            return stream

        async def over_quic() -> Stream:
            return await connection.open_stream(PROTOCOL)

        measured = await _rows("LAN stream, TCP + TLS 1.3", over_tcp, 64, "<= 0.3 ms")
        measured += await _rows("QuicHost, 8900 B datagrams", over_quic, 16)
    ratio = measured[5].value / measured[0].value
    workload = "16 KiB there and back"
    return [
        *measured,
        Row("LAN stream against QuicHost: echo p50", workload, ratio, "x", ">= 1 x"),
    ]


async def _rows(name: str, open_stream: Open, bulk_mib: int, mark: str = "") -> list[Row]:
    stream = await open_stream()
    frame = bytes(ECHO_BYTES)
    for _ in range(100):
        await _exchange(stream, frame)
    times_ms = sorted([1000 * await _exchange(stream, frame) for _ in range(ECHO_COUNT)])
    rates, costs = [], []
    for _ in range(ROUNDS):
        wall, cpu = perf_counter(), process_time()
        await _bulk(stream, bulk_mib)
        rates.append(bulk_mib / (perf_counter() - wall))
        costs.append(1000 * (process_time() - cpu) / bulk_mib)
    opens_ms = [1000 * await _opened(open_stream) for _ in range(OPEN_COUNT)]
    echo, one_way = "16 KiB there and back", f"{bulk_mib} MiB one way"
    return [
        Row(f"{name}: echo p50", echo, median(times_ms), "ms", mark),
        Row(f"{name}: echo p99", echo, times_ms[int(0.99 * len(times_ms))], "ms"),
        Row(f"{name}: throughput", one_way, median(rates), "MiB/s", "", _spread(rates)),
        Row(f"{name}: CPU, both ends", one_way, median(costs), "ms/MiB", "", _spread(costs)),
        Row(f"{name}: new stream p50", "open and 1 B echo", median(opens_ms), "ms"),
    ]


def _spread(values: list[float]) -> str:
    return f"{min(values):.3g}-{max(values):.3g}"


async def _exchange(stream: Stream, frame: bytes) -> float:
    began = perf_counter()
    await stream.send(frame)
    answer = await stream.receive()
    assert answer is not None
    assert len(answer) == len(frame)
    return perf_counter() - began


async def _bulk(stream: Stream, mib: int) -> None:
    frame = bytes(MIB)
    for _ in range(mib):
        await stream.send(frame)
    await _exchange(stream, b"done")


async def _opened(open_stream: Open) -> float:
    began = perf_counter()
    stream = await open_stream()
    await _exchange(stream, b"x")
    took = perf_counter() - began
    stream.finish()
    assert await stream.receive() is None
    return took


@asynccontextmanager
async def _pair() -> AsyncIterator[tuple[FastLan, Connection]]:
    async def serve(stream: Stream) -> None:
        while (frame := await stream.receive()) is not None:
            if len(frame) < MIB:
                await stream.send(frame)

    here = await QuicHost.start(KeyPair.generate(), listen_host="127.0.0.1")
    there = await QuicHost.start(KeyPair.generate(), listen_host="127.0.0.1")
    fast_here, fast_there = [await FastLan.start(host, "127.0.0.1") for host in (here, there)]
    there.set_handler(PROTOCOL, serve)
    connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
    yield fast_here, connection
    for closable in (fast_here, fast_there, here, there):
        await closable.close()
