"""What slots and circuits cost a relay, and what its circuits over TCP carry: a started program.

The relay is a process of its own; the nodes share another, so that memory and CPU are the relay's
alone. Memory is its unique set size (USS): a slot's is that of one more idle reserved connection,
a circuit's that of one more circuit through which bytes have gone. Keepalives of nodes cost CPU
too, so carrying is measured first, with two. Wall figures have both ends on the same cores.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psutil

from benchmarks.row import Row
from protocol.identity import KeyPair
from transport.address import CircuitAddress, TcpAddress
from transport.control.base import ControlStream
from transport.control.host import LibP2pHost
from transport.control.settings import ControlSettings

__all__ = ["rows"]

MIB = 1024 * 1024
SLOTS = 1_000
DIALS_AT_ONCE = 4
CIRCUITS = 100
"""One head to so many hops."""
TRANSFER_BYTES = 64 * MIB
ECHO_BYTES = 16 * 1024
ECHOES = 300
TIMEOUT_S = 60.0
SETTLE_S = 1.0
IDLE_S = 10.0
ECHO = "/piecework/benchmark/echo/1"
SINK = "/piecework/benchmark/sink/1"
LIMITS = {
    "RESERVATIONS_PER_HOST_MAX": 2 * SLOTS,
    "CIRCUITS_PER_PEER_MAX": 2 * CIRCUITS,
    "STREAMS_PER_PEER_MAX": 4 * CIRCUITS,
    "REQUESTS_PER_PEER_BURST": 4 * CIRCUITS,
}


def rows() -> list[Row]:
    """Takes about a minute."""
    with tempfile.TemporaryDirectory() as home, _Program(home) as program:
        return asyncio.run(_measure(program))


class _Program:
    """`piecework-relay` on loopback, its limits raised where all nodes come from one host."""

    def __init__(self, home: str) -> None:
        ports = ("--port", "--udp-port", "--other-udp-port", "--status-port")
        limits = {f"PIECEWORK_RELAY_CIRCUITS__{name}": str(n) for name, n in LIMITS.items()}
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", "from relay.cli import main; main()"),
                *("--home", home, "--host", "127.0.0.1", "--drain-s", "0"),
                *(word for port in ports for word in (port, "0")),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **limits},
        )
        self._usage = psutil.Process(self._process.pid)

    def __enter__(self) -> "_Program":
        assert self._process.stdout is not None
        self.address = TcpAddress.from_text(self._process.stdout.readline().strip())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    @property
    def memory_bytes(self) -> int:
        return int(self._usage.memory_full_info().uss)

    @property
    def cpu_s(self) -> float:
        times = self._usage.cpu_times()
        return float(times.user + times.system)


async def _measure(program: _Program) -> list[Row]:
    async with _nodes(2) as pair:
        await _reserve(program, pair)
        measured = await _measure_carrying(program, *pair)
    async with _nodes(1 + CIRCUITS) as nodes:
        await _reserve(program, nodes)
        measured += await _measure_circuits(program, nodes)
    async with _nodes(SLOTS) as nodes:
        return measured + await _measure_slots(program, nodes)


@asynccontextmanager
async def _nodes(count: int) -> AsyncIterator[list[LibP2pHost]]:
    """Each with handlers that echo, and that count what is sent."""
    settings = ControlSettings(
        streams_max=LIMITS["STREAMS_PER_PEER_MAX"],
        # a thousand nodes in one process are slow company; patience changes no figure
        handshake_timeout_s=TIMEOUT_S,
        idle_timeout_s=TIMEOUT_S,
        dial_timeout_s=TIMEOUT_S,
    )
    nodes = [await LibP2pHost.start(KeyPair.generate(), settings=settings) for _ in range(count)]
    try:
        for node in nodes:
            node.set_handler(ECHO, _echo)
            node.set_handler(SINK, _sink)
        yield nodes
    finally:
        await asyncio.gather(*(node.close() for node in nodes))


async def _measure_slots(program: _Program, nodes: Sequence[LibP2pHost]) -> list[Row]:
    half = len(nodes) // 2
    at_start = program.memory_bytes
    await _reserve(program, nodes[:half])
    at_half, cpu_s, began = program.memory_bytes, program.cpu_s, time.monotonic()
    await _reserve(program, nodes[half:])
    wall_s, cpu_s = time.monotonic() - began - SETTLE_S, program.cpu_s - cpu_s
    at_end, rest = program.memory_bytes, len(nodes) - half
    idle_cpu_s = program.cpu_s
    await asyncio.sleep(IDLE_S)
    idle_share = (program.cpu_s - idle_cpu_s) / IDLE_S
    workload = f"{len(nodes)} nodes over TCP, Noise, yamux; the later half"
    return [
        Row("relay, memory before", "no node", at_start / MIB, "MiB"),
        Row("relay, memory of a reserved node", workload, (at_end - at_half) / rest / 1024, "KiB"),
        Row("relay, memory with all reserved", workload, at_end / MIB, "MiB"),
        Row("relay, CPU of connecting and reserving", workload, 1e3 * cpu_s / rest, "ms"),
        Row("relay, nodes reserved a second", workload, rest / wall_s, "1/s"),
        Row(
            "relay, CPU with all reserved and idle",
            f"{len(nodes)} nodes, each pings after 5 s of silence",
            100 * idle_share,
            "% of a core",
        ),
    ]


async def _measure_circuits(program: _Program, nodes: Sequence[LibP2pHost]) -> list[Row]:
    head, hops = nodes[0], nodes[1 : 1 + CIRCUITS]
    await _open(program, head, hops[:8])  # what only the first costs
    before, cpu_s, began = program.memory_bytes, program.cpu_s, time.monotonic()
    streams = await _open(program, head, hops[8:])
    wall_s = (time.monotonic() - began) / len(streams)
    cpu_s = (program.cpu_s - cpu_s) / len(streams)
    await asyncio.sleep(SETTLE_S)
    size = (program.memory_bytes - before) / len(streams)
    workload = f"{len(streams)} more, one head to as many hops"
    return [
        Row("relay circuits, memory of one", workload, size / 1024, "KiB"),
        Row("relay circuits, CPU of opening one", workload, 1e3 * cpu_s, "ms"),
        Row("relay circuits, opening one, wall", workload, 1e3 * wall_s, "ms"),
    ]


async def _measure_carrying(program: _Program, head: LibP2pHost, hop: LibP2pHost) -> list[Row]:
    """On a circuit that stands already."""
    workload = "one circuit, Noise in Noise, both ends on the same cores"
    (echo,) = await _open(program, head, [hop])
    times = []
    for _ in range(ECHOES):
        began = time.monotonic()
        await _round_trip(echo, ECHO_BYTES)
        times.append(time.monotonic() - began)
    connection = await head.connect(_address(program, hop), timeout_s=TIMEOUT_S)
    sink = await connection.open_stream(SINK, timeout_s=TIMEOUT_S)
    cpu_s, began, chunk = program.cpu_s, time.monotonic(), bytes(256 * 1024)
    for _ in range(TRANSFER_BYTES // len(chunk)):
        await sink.write(chunk)
    await sink.finish()
    while await sink.read(1024):
        pass
    wall_s, cpu_s = time.monotonic() - began, program.cpu_s - cpu_s
    size_mib = TRANSFER_BYTES / MIB
    spread = f"p99 {1e3 * statistics.quantiles(times, n=100)[98]:.1f} ms"
    middle_ms = 1e3 * statistics.median(times)
    return [
        Row("relay circuits, echo of 16 KiB, p50", workload, middle_ms, "ms", "", spread),
        Row("relay circuits, CPU per MiB", workload, 1e3 * cpu_s / size_mib, "ms", "<= 23 ms"),
        Row("relay circuits, wall rate", workload, size_mib / wall_s, "MiB/s"),
    ]


async def _reserve(program: _Program, nodes: Sequence[LibP2pHost]) -> None:
    gate = asyncio.Semaphore(DIALS_AT_ONCE)

    async def reserve(node: LibP2pHost) -> None:
        async with gate:
            await node.reserve(program.address, timeout_s=TIMEOUT_S)

    await asyncio.gather(*map(reserve, nodes))
    await asyncio.sleep(SETTLE_S)


async def _open(
    program: _Program, head: LibP2pHost, hops: Sequence[LibP2pHost]
) -> list[ControlStream]:
    """A stream through a circuit to each, on which bytes have gone there and back."""
    streams: list[ControlStream] = []
    for hop in hops:
        connection = await head.connect(_address(program, hop), timeout_s=TIMEOUT_S)
        stream = await connection.open_stream(ECHO, timeout_s=TIMEOUT_S)
        await _round_trip(stream, 64)
        streams.append(stream)
    return streams


def _address(program: _Program, hop: LibP2pHost) -> CircuitAddress:
    return CircuitAddress(program.address, hop.peer_id)


async def _round_trip(stream: ControlStream, size: int) -> None:
    await stream.write(bytes(size))
    got = 0
    while got < size:
        data = await stream.read(size)
        if not data:
            raise RuntimeError("The circuit ended.")
        got += len(data)


async def _echo(stream: ControlStream) -> None:
    while data := await stream.read(65_536):
        await stream.write(data)


async def _sink(stream: ControlStream) -> None:
    while await stream.read(65_536):
        pass


if __name__ == "__main__":
    for row in rows():
        print(f"{row.figure} [{row.workload}] {row.value:.3g} {row.unit} {row.spread}")
