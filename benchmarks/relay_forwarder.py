"""What the relay's UDP forwarder carries for a second of its CPU, over loopback.

Datagrams have 1400 bytes and the circuit of each is checked. *coalesced*: the sender hands over 46
in a call and the kernel keeps them together; *separate*: a call each, flights of 16 a circuit;
*interleaved*: a call each, and every datagram of another circuit; *merged*: 46 circuits in a call.

Two ways of measuring. *Saturated*: one process fills the relay's socket, lets the event loop empty
it, and reads the sinks empty, by turns; only the middle is counted, as CPU time (user and system; a
send over loopback includes its delivery). *Beside*: generator, forwarder and sink in three
processes; on two cores the wall rate then says more of the machine than of the forwarder.
"""

import asyncio
import gc
import multiprocessing
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle, islice
from multiprocessing.connection import Connection
from statistics import median

import psutil
import uvloop

from benchmarks.row import Row
from protocol.datagram import COOKIE_BYTES, Bind, Bound, forwarded
from protocol.identity import PeerId
from relay.datagrams import RelayDatagrams
from relay.forwarder import Grant
from relay.resources import ForwarderLimits, Resources

__all__ = ["rows"]

MIB = 1024 * 1024
DATAGRAM_BYTES = 1400
SEGMENTS = 46
FLIGHT = 16
FILL_DATAGRAMS = 92 * SEGMENTS
"""What one turn puts into the relay's socket: 6 MB, 10 as the kernel counts."""
BUFFER_BYTES = 32 * MIB
TURNS = 20
SECONDS = 1.0
ANSWER_TIMEOUT_S = 20
SOCKETS_MAX = 64
"""On either side; the circuits are divided among them."""
MARKS = {"coalesced": ">= 1000 MiB/s", "separate": ">= 500 MiB/s"}

_UDP_SEGMENT = 103
_UDP_GRO = 104
_FORK = multiprocessing.get_context("fork")

Address = tuple[str, int]
Call = tuple[socket.socket, list[bytes]]
"""One call of the sender: from which socket, and the datagrams it hands over together."""


def rows() -> list[Row]:
    """Takes about half a minute."""
    gc.collect()
    gc.freeze()
    measured: list[Row] = []
    for circuits in (1, 1_000, 10_000):
        measured += uvloop.run(_saturated(circuits))
    for name in ("coalesced", "separate"):
        measured += _beside(name)
    return measured


async def _saturated(circuits: int) -> list[Row]:
    names = ["coalesced", "separate"] if circuits == 1 else [*MARKS, "interleaved", "merged"]
    measured: list[Row] = []
    with _relay() as service:
        before = psutil.Process().memory_info().rss
        grants = _allocate(service, circuits)
        gc.collect()
        size = (psutil.Process().memory_info().rss - before) / circuits
        near, far = _sockets(circuits), _sockets(circuits)
        relay = ("127.0.0.1", service.ports[0])
        for side, sockets in ((0, near), (1, far)):
            for grant, each in zip(grants, cycle(sockets), strict=False):
                _bind(service, grant, side, each.getsockname())
        if circuits > 1:
            workload = f"{circuits} bound circuits, two peers each"
            measured.append(Row("relay forwarder, memory of a circuit", workload, size, "B"))
        for name in names:
            calls = cycle(_calls(name, near, [grant.circuit for grant in grants]))
            psutil.cpu_percent()
            costs = [await _turn(service, calls, relay, far) for _ in range(TURNS)]
            busy = psutil.cpu_percent()
            workload = f"saturated, {name}, {circuits} circuits; machine {busy:.0f} % busy"
            measured.append(_row(workload, costs, MARKS.get(name, "")))
            if (name, circuits) == ("separate", 1):
                bare = [_bare_turn(next(calls)[1][0], near[0], far[0]) for _ in range(TURNS)]
                measured.append(
                    Row(
                        "relay forwarder, against a bare loop",
                        "one recvfrom_into and one sendto a datagram, no check; same run",
                        median(bare) / median(costs),
                        "x",
                        ">= 2 x",
                    )
                )
        for each in (*near, *far):
            each.close()
    return measured


async def _turn(
    service: RelayDatagrams,
    calls: Iterator[Call],
    relay: Address,
    far: Sequence[socket.socket],
) -> float:
    """Fill, forward, drain: CPU milliseconds per MiB of forwarding."""
    filled = 0
    while filled < FILL_DATAGRAMS:
        source, datagrams = next(calls)
        _call(source, datagrams, relay)
        filled += len(datagrams)
    before = service.forwarder.statistics().bytes
    began = time.process_time()
    await _until(service, datagrams=filled)
    spent = time.process_time() - began
    carried = service.forwarder.statistics().bytes - before
    if sum(map(_drain, far)) != carried:
        raise RuntimeError("The sinks did not get what the forwarder says that it carried.")
    return 1e3 * spent / (carried / MIB)


def _bare_turn(datagram: bytes, near: socket.socket, far: socket.socket) -> float:
    """The same work by the plainest loop there is: CPU milliseconds per MiB."""
    (middle,) = _sockets(1)
    middle.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 0)
    relay, target, count = middle.getsockname(), far.getsockname(), 0
    for _ in range(FILL_DATAGRAMS):
        near.sendto(datagram, relay)
    view = memoryview(bytearray(65_536))
    began = time.process_time()
    try:
        while True:
            size, _ = middle.recvfrom_into(view)
            middle.sendto(view[:size], target)
            count += 1
    except BlockingIOError:
        spent = time.process_time() - began
    middle.close()
    _drain(far)
    return 1e3 * spent / (count * DATAGRAM_BYTES / MIB)


async def _until(service: RelayDatagrams, **more: int) -> None:
    """Turns of the loop until the forwarder has done so many more."""
    for what, count in more.items():
        aim = getattr(service.forwarder.statistics(), what) + count
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while getattr(service.forwarder.statistics(), what) < aim:
            if time.monotonic() > deadline:
                raise TimeoutError(f"The forwarder did not get {count} {what}.")
            await asyncio.sleep(0)


def _calls(name: str, sockets: Sequence[socket.socket], circuits: Sequence[bytes]) -> list[Call]:
    """What the sender repeats; circuit i belongs to socket i modulo their number."""
    content, count = bytes(DATAGRAM_BYTES - 9), len(sockets)
    datagrams = [forwarded(each, content) for each in circuits]
    calls: list[Call] = []
    for index, datagram in enumerate(datagrams):
        source = sockets[index % count]
        match name:
            case "coalesced":
                calls.append((source, [datagram] * SEGMENTS))
            case "separate":
                calls += [(source, [datagram])] * FLIGHT
            case "interleaved":
                calls.append((source, [datagram]))
            case "merged":
                own = datagrams[index % count :: count]
                calls.append((source, list(islice(cycle(own), index, index + SEGMENTS))))
    return calls


def _call(source: socket.socket, datagrams: list[bytes], relay: Address) -> None:
    if len(datagrams) == 1:
        source.sendto(datagrams[0], relay)
        return
    control = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("H", DATAGRAM_BYTES))]
    source.sendmsg(datagrams, control, 0, relay)


def _row(workload: str, costs: Sequence[float], mark: str) -> Row:
    """The middle turn; the spread is of the middle half."""
    ordered = sorted(costs)
    quarter = len(ordered) // 4
    return Row(
        "relay forwarder, per second of its CPU",
        workload,
        1e3 / median(ordered),
        "MiB/s",
        mark,
        f"{1e3 / ordered[-1 - quarter]:.0f}-{1e3 / ordered[quarter]:.0f}",
    )


@contextmanager
def _relay() -> Iterator[RelayDatagrams]:
    limits = ForwarderLimits(bytes_per_s_max=1 << 50, burst_bytes=1 << 50)
    service = RelayDatagrams.open(
        "127.0.0.1", (0,), replace(Resources(), forwarder=limits), buffer_bytes=BUFFER_BYTES
    )
    service.start()
    try:
        yield service
    finally:
        service.close()


def _allocate(service: RelayDatagrams, circuits: int) -> list[Grant]:
    def peer() -> PeerId:
        return PeerId(os.urandom(32))

    now = time.monotonic()
    return [service.forwarder.allocate(peer(), peer(), now) for _ in range(circuits)]


def _bind(service: RelayDatagrams, grant: Grant, side: int, end: Address) -> None:
    """As if BIND came from `end`: for its cookie, and then with it."""
    cookie = bytes(COOKIE_BYTES)
    for _ in range(2):
        asked = Bind(grant.circuit, side, 1, cookie).encode(grant.secrets[side])
        answer = service.forwarder.bind(asked, end, 0, time.monotonic())
        if not isinstance(answer, bytes):
            raise RuntimeError(f"The forwarder did not bind a side: {answer}.")
        cookie = Bound.decode(answer).cookie


def _sockets(circuits: int) -> list[socket.socket]:
    made = [
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(min(circuits, SOCKETS_MAX))
    ]
    for each in made:
        for forced in (32, 33):
            each.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
        each.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
        each.bind(("127.0.0.1", 0))
        each.setblocking(False)
    return made


_room = bytearray(65_536)


def _drain(source: socket.socket) -> int:
    """Read it empty; how many bytes of FORWARDED that were."""
    size = 0
    try:
        while True:
            got = source.recv_into(_room)
            size += got if _room[0] == 0x08 else 0
    except BlockingIOError:
        return size


def _beside(name: str) -> Iterable[Row]:
    """Three processes; the forwarder says what it carried and what it cost."""
    pipe, theirs = _FORK.Pipe()
    near, far = _sockets(1), _sockets(1)
    ends = (near[0].getsockname(), far[0].getsockname())
    relay = _FORK.Process(target=_serve_alone, args=(theirs, ends), daemon=True)
    relay.start()
    port, grant = _receive(pipe)
    calls = _calls(name, near, [grant.circuit])
    others = [
        _FORK.Process(target=_sink, args=(far[0],), daemon=True),
        _FORK.Process(target=_generate, args=(calls, ("127.0.0.1", port)), daemon=True),
    ]
    for process in others:
        process.start()
    time.sleep(0.5)
    costs, rates = [], []
    psutil.cpu_percent()
    for _ in range(5):
        cpu, done, at = _ask(pipe)
        time.sleep(SECONDS)
        cpu_after, done_after, at_after = _ask(pipe)
        costs.append(1e3 * (cpu_after - cpu) / ((done_after - done) / MIB))
        rates.append((done_after - done) / MIB / (at_after - at))
    busy = psutil.cpu_percent()
    for process in (*others, relay):
        process.kill()
        process.join()
    workload = f"beside generator and sink, {name}, 1 circuit; machine {busy:.0f} % busy"
    spread = f"{min(rates):.0f}-{max(rates):.0f}"
    return (
        _row(workload, costs, ""),
        Row("relay forwarder, wall rate", workload, median(rates), "MiB/s", "", spread),
    )


def _ask(pipe: Connection):
    pipe.send("sample")
    return _receive(pipe)


def _receive(pipe: Connection):
    if not pipe.poll(ANSWER_TIMEOUT_S):
        raise TimeoutError("The forwarder's process does not answer.")
    return pipe.recv()


def _serve_alone(pipe: Connection, ends: tuple[Address, Address]) -> None:
    async def serve() -> None:
        with _relay() as service:
            (grant,) = _allocate(service, 1)
            for side, end in enumerate(ends):
                _bind(service, grant, side, end)
            pipe.send((service.ports[0], grant))

            def answer() -> None:
                pipe.recv()
                carried = service.forwarder.statistics().bytes
                pipe.send((time.process_time(), carried, time.perf_counter()))

            asyncio.get_running_loop().add_reader(pipe.fileno(), answer)
            await asyncio.Event().wait()

    uvloop.run(serve())


def _generate(calls: Sequence[Call], relay: Address) -> None:
    calls[0][0].setblocking(True)
    for source, datagrams in cycle(calls):
        _call(source, datagrams, relay)


def _sink(source: socket.socket) -> None:
    source.setblocking(True)
    while True:
        source.recv_into(_room)
