"""The relay's UDP side at work: one batch in, forwarder or reflector, one batch out.

Datagrams of different circuits and kinds arrive merged in one read, so the beginning of every one
is looked at; those that go the same way leave together again.
"""

import asyncio
import logging
import struct
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Final

from protocol.datagram import FORWARDED_HEADER_BYTES, DatagramType
from relay.forwarder import Forwarder
from relay.reflector import Reflection, Reflector
from relay.resources import Resources
from relay.usage import DropReason
from transport.udp.batch import BatchSocket, BatchStatistics, Run
from transport.udp.udp_socket import SocketAddress

__all__ = ["RelayDatagrams"]

log = logging.getLogger(__name__)

SOCKET_BUFFER_BYTES: Final = 16 * 1024 * 1024
"""Kernel buffers each way: a gigabit for 100 ms, should the event loop be held up."""

_BATCHES_MAX: Final = 8
"""Batches of at most 256 KB read in one turn of the event loop: the control plane waits 3 ms."""
_EXPIRE_INTERVAL_S: Final = 5.0
_LAYOUTS_REMEMBERED: Final = 1024
"""How runs of so many datagrams of such a size are read; making one costs about 1 µs."""

_FORWARDED: Final = int(DatagramType.FORWARDED)
"""A plain int: the enum costs 60 ns a look."""
_HEAD: Final = struct.Struct(f"{FORWARDED_HEADER_BYTES}s")


Heads = tuple[bytes, ...]


class RelayDatagrams:
    """Serves one port or two in the running event loop, from `start` to `close`."""

    def __init__(
        self,
        sockets: Sequence[BatchSocket],
        forwarder: Forwarder,
        reflector: Reflector,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes the sockets over: `close` closes them."""
        self._sockets = tuple(sockets)
        self._clock = clock
        self.forwarder = forwarder
        self.reflector = reflector
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def open(
        cls,
        host: str,
        ports: Sequence[int],
        resources: Resources,
        *,
        buffer_bytes: int = SOCKET_BUFFER_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> "RelayDatagrams":
        """Bind one port or two (0: any). `host` is a literal address. Raises OSError."""
        if not 1 <= len(ports) <= 2:
            raise ValueError("A relay's UDP side has one port, or two.")
        sockets: list[BatchSocket] = []
        try:
            sockets.extend(BatchSocket(host, port, buffer_bytes) for port in ports)
        except OSError:
            for opened in sockets:
                opened.close()
            raise
        reflector = Reflector(resources.reflector, has_other_port=len(sockets) > 1, now=clock())
        return cls(sockets, Forwarder(resources.forwarder), reflector, clock=clock)

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(each.port for each in self._sockets)

    def start(self) -> None:
        """Serve in the running loop."""
        self._loop = asyncio.get_running_loop()
        for index, each in enumerate(self._sockets):
            self._loop.add_reader(each.fileno(), partial(self._read, index))
        self._expire()

    def close(self) -> None:
        """Stop and close the sockets; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None:
            for each in self._sockets:
                self._loop.remove_reader(each.fileno())
            self._loop = None
        for each in self._sockets:
            each.close()

    def statistics(self) -> tuple[BatchStatistics, ...]:
        """A port each."""
        return tuple(each.statistics() for each in self._sockets)

    def _read(self, index: int) -> None:
        """What waits at one port, or a bounded part of it; the loop calls again for the rest."""
        source = self._sockets[index]
        for _ in range(_BATCHES_MAX):
            runs = source.receive()
            if runs:
                self._handle(runs, index, self._clock())
                for each in self._sockets:
                    each.flush()
            if source.is_drained:
                return

    def _handle(self, runs: list[Run], index: int, now: float) -> None:
        route, sockets = self.forwarder.route, self._sockets
        for run in runs:
            source, size, view = run
            heads = _heads(view, size)
            if not heads:
                self.forwarder.drops[DropReason.MALFORMED] += -(-len(view) // size)
                continue
            first, count = heads[0], len(heads)
            if heads.count(first) != count or first[0] != _FORWARDED or count * size < len(view):
                self._divide(run, heads, index, now)
                continue
            side = route(first, source, count, len(view), now)
            if side is not None and side.address is not None:
                sockets[side.port].queue(view, size, side.address)

    def _divide(self, run: Run, heads: Heads, index: int, now: float) -> None:
        """A run of several circuits or kinds, or with a last datagram too short to have a head."""
        source, size, view = run
        count = len(heads)
        if count * size < len(view):
            self.forwarder.drops[DropReason.MALFORMED] += 1
            view = view[: count * size]
        begin = 0
        while begin < count:
            head, end = heads[begin], begin + 1
            if head[0] != _FORWARDED:
                self._answer(bytes(view[begin * size : end * size]), source, index, now)
            else:
                while end < count and heads[end] == head:
                    end += 1
                part = view[begin * size : end * size]
                side = self.forwarder.route(head, source, end - begin, len(part), now)
                if side is not None and side.address is not None:
                    self._sockets[side.port].queue(part, min(size, len(part)), side.address)
            begin = end

    def _answer(self, data: bytes, source: SocketAddress, port: int, now: float) -> None:
        """One datagram of 9 bytes or more that is not FORWARDED."""
        match data[0]:
            case DatagramType.BIND:
                bound = self.forwarder.bind(data, source, port, now)
                if isinstance(bound, bytes):
                    self._sockets[port].send(bound, source)
                else:
                    self.forwarder.drops[bound] += 1
            case DatagramType.REFLECT:
                answer = self.reflector.answer(data, source, now)
                if isinstance(answer, Reflection):
                    from_port = 1 - port if answer.is_from_other_port else port
                    self._sockets[from_port].send(answer.data, source)
                else:
                    self.forwarder.drops[answer] += 1
            case _:
                self.forwarder.drops[DropReason.UNKNOWN_TYPE] += 1

    def _expire(self) -> None:
        """End idle circuits now and every few seconds."""
        ended = self.forwarder.expire(self._clock())
        if ended:
            log.debug("%d idle circuits ended", ended)
        if self._loop is not None:
            self._timer = self._loop.call_later(_EXPIRE_INTERVAL_S, self._expire)


def _heads(view: memoryview, size: int) -> Heads:
    """The first 9 bytes of every datagram of a run; without the last one's if it is shorter."""
    length = len(view)
    if size < FORWARDED_HEADER_BYTES:
        return ()
    if length <= size:
        return _HEAD.unpack_from(view)
    count, rest = divmod(length, size)
    heads = _layout(size, count).unpack_from(view)
    if rest >= FORWARDED_HEADER_BYTES:
        heads += _HEAD.unpack_from(view, length - rest)
    return heads


@lru_cache(_LAYOUTS_REMEMBERED)
def _layout(size: int, count: int) -> struct.Struct:
    return struct.Struct(f"{FORWARDED_HEADER_BYTES}s{size - FORWARDED_HEADER_BYTES}x" * count)
