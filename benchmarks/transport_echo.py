"""How fast a frame comes back, and how many go through: our data socket against the alternatives.

Both ends of each run in one process on one core over loopback; every round takes all carriers one
after the other, so that what disturbs the machine disturbs all. Compare rows with each other and
not with another machine's. On a busy machine trust the CPU rows and the ratios: wall time then
holds other processes' turns of some ms each, and its p99 little else.
"""

import asyncio
import gc
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter, process_time

import uvloop

from benchmarks import transport_echo_libp2p
from benchmarks.row import Row
from benchmarks.transport_echo_carriers import Carrier, control, data_socket, stock, tls

__all__ = ["rows"]

ECHO_BYTES = 16 * 1024
ECHO_COUNT = 60
WARM_UP_COUNT = 8
ROUNDS = 8

MARKS = {1452: ("<= 1.4 ms", ">= 30 MiB/s")}
"""What the prototype driver reached at 1452 B (1.32 ms, 33-35 MiB/s), with room for the machine."""
STOCK_MARK = ">= 3.5 x"
"""Each as it ships: on loopback ours sends 8900 B, as its MTU is known; stock always begins small.
With equal datagrams both pay the same core's price per packet, and ours only saves around it.
"""
OURS, STOCK = "QuicHost, {} B datagrams", "stock aioquic.asyncio, {}"
MS = 1000


@dataclass(slots=True)
class Measured:
    """All rounds of one carrier."""

    bulk_mib: int = 0
    echoes_ms: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    """Of each round."""
    echo_cpu_ms: list[float] = field(default_factory=list)
    mib_s: list[float] = field(default_factory=list)
    cpu_ms_mib: list[float] = field(default_factory=list)

    async def round(self, carrier: Carrier) -> None:
        """One more round."""
        frame = bytes(ECHO_BYTES)
        for _ in range(WARM_UP_COUNT):
            await carrier.exchange(frame)
        cpu = process_time()
        times = [MS * await _timed(carrier, frame) for _ in range(ECHO_COUNT)]
        self.echo_cpu_ms.append(MS * (process_time() - cpu) / ECHO_COUNT)
        self.echoes_ms += times
        self.p50_ms.append(median(times))
        wall, cpu = perf_counter(), process_time()
        await carrier.bulk()
        self.bulk_mib = carrier.bulk_mib
        self.mib_s.append(carrier.bulk_mib / (perf_counter() - wall))
        self.cpu_ms_mib.append(MS * (process_time() - cpu) / carrier.bulk_mib)

    def rows(self, name: str, marks: tuple[str, str]) -> list[Row]:
        echo, one_way = "16 KiB there and back", f"{self.bulk_mib} MiB one way"
        p99 = sorted(self.echoes_ms)[int(0.99 * len(self.echoes_ms))]
        return [
            Row(f"{name}: echo p50", echo, median(self.p50_ms), "ms", marks[0], _far(self.p50_ms)),
            Row(f"{name}: echo p99", echo, p99, "ms"),
            _row(f"{name}: echo CPU, both ends", echo, self.echo_cpu_ms, "ms"),
            _row(f"{name}: throughput", one_way, self.mib_s, "MiB/s", marks[1]),
            _row(f"{name}: CPU, both ends", one_way, self.cpu_ms_mib, "ms/MiB"),
        ]


def rows() -> list[Row]:
    """Takes about half a minute."""
    found: dict[str, Measured] = {}
    library = Measured()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stack = AsyncExitStack()
        carriers = runner.run(_open(stack))
        gc.collect()
        gc.freeze()
        for _ in range(ROUNDS):
            for carrier in carriers:
                runner.run(found.setdefault(carrier.name, Measured()).round(carrier))
            # trio's turn: the loop rests meanwhile, and its connections outlast that
            transport_echo_libp2p.run(library.round)
        runner.run(stack.aclose())
    found[transport_echo_libp2p.NAME] = library
    return [*_ratios(found), *(row for each in found.items() for row in _rows_of(*each))]


async def _open(stack: AsyncExitStack) -> list[Carrier]:
    ours = [data_socket(size) for size in (8900, 1452, 1200)]
    others = [stock(), stock(datagram_bytes=1452, window_bytes=16 * 1024 * 1024), control(), tls()]
    return [await stack.enter_async_context(way) for way in (*ours, *others)]


def _rows_of(name: str, measured: Measured) -> list[Row]:
    marks = next((m for size, m in MARKS.items() if name == OURS.format(size)), ("", ""))
    return measured.rows(name, marks)


def _ratios(found: dict[str, Measured]) -> list[Row]:
    """How many times faster the echo is: of each round, so that both had the same machine."""
    defaults, tuned = STOCK.format("defaults (1200 B)"), STOCK.format("1452 B, 16 MiB windows")
    pairs = (
        ("data socket as it ships against stock aioquic", OURS.format(8900), defaults, STOCK_MARK),
        ("the same, both with 1200 B datagrams", OURS.format(1200), defaults, ""),
        ("the same, both with 1452 B, stock's windows as ours", OURS.format(1452), tuned, ""),
    )
    made = []
    for name, ours, theirs, mark in pairs:
        for what, values in (("echo p50", "p50_ms"), ("echo CPU", "echo_cpu_ms")):
            both = zip(getattr(found[theirs], values), getattr(found[ours], values), strict=True)
            ratios = [other / own for other, own in both]
            shown = mark if what == "echo p50" else ""
            made.append(_row(f"{name}: {what}", "16 KiB there and back", ratios, "x", shown))
    return made


def _row(name: str, workload: str, values: list[float], unit: str, mark: str = "") -> Row:
    return Row(name, workload, median(values), unit, mark, _far(values))


def _far(values: list[float]) -> str:
    return f"{min(values):.3g}-{max(values):.3g}"


async def _timed(carrier: Carrier, frame: bytes) -> float:
    began = perf_counter()
    assert len(await carrier.exchange(frame)) == len(frame)
    return perf_counter() - began
