"""Datagrams through a control stream: how peers whose UDP is blocked still speak QUIC.

On the stream: 8 bytes naming the link, then datagrams, each behind 2 bytes of length. The queue is
short and drops what is newest, as a link's does: QUIC's own loss recovery and pacing then hold the
rate at what the stream carries, and nothing waits behind megabytes.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

from protocol.datagram import LINK_BYTES
from protocol.errors import PieceworkError, RemoteProtocolError
from transport.control.base import ControlStream

__all__ = ["TUNNEL_DATAGRAM_BYTES", "TUNNEL_PROTOCOL", "Tunnel", "read_link"]

TUNNEL_PROTOCOL: Final = "/piecework/tunnel/1"

TUNNEL_DATAGRAM_BYTES: Final = 8900
"""No path MTU limits a stream: fewer, larger packets cost both ends less."""

QUEUE_BYTES_MAX: Final = 256 * 1024
"""100 ms of 20 Mbit/s: what a home router's buffer holds as well."""

READ_BYTES: Final = 64 * 1024
WRITE_BYTES: Final = 64 * 1024
"""In one write: the queue has room again when the muxer took that much."""

_LENGTH_BYTES: Final = 2

log = logging.getLogger(__name__)


class Tunnel:
    """Owned by one link. `receive` gets whole datagrams; `on_end` is called once, with why.

    One task reads, one writes; whoever ends first ends the other and gives the stream up.
    """

    def __init__(
        self,
        stream: ControlStream,
        receive: Callable[[list[bytes]], None],
        on_end: Callable[[str], None],
        *,
        rest: bytes = b"",
        opening: bytes = b"",
    ) -> None:
        """`rest`: what was read behind the link's name already. `opening`: that name, to be written
        before everything else."""
        self.dropped_count = 0
        self.heard_at = monotonic()
        """When something last came out of it; monotonic seconds."""
        self._stream = stream
        self._receive = receive
        self._on_end = on_end
        self._unread = bytearray(rest)
        self._opening = opening
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        """With what is being written."""
        self._is_ended = False
        self._has_more, self._ending = asyncio.Event(), asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def send(self, datagrams: list[bytes]) -> None:
        """Queue them; what does not fit is dropped and counted."""
        for datagram in datagrams:
            size = len(datagram)
            is_too_much = self._queued_bytes + size > QUEUE_BYTES_MAX
            if self._is_ended or is_too_much or size > TUNNEL_DATAGRAM_BYTES:
                self.dropped_count += 1
                continue
            self._queue.append(datagram)
            self._queued_bytes += size
        self._has_more.set()

    def end(self, reason: str) -> None:
        """Carry nothing from now on; tasks and stream are freed behind it."""
        if not self._is_ended:
            self._is_ended = True
            self._queue.clear()
            self._ending.set()
            self._on_end(reason)

    def on_freed(self, call: Callable[["Tunnel"], None]) -> None:
        """Call that once everything that it had is free."""
        self._task.add_done_callback(lambda _: call(self))

    async def wait_ended(self) -> None:
        """Until everything that it had is free."""
        await asyncio.wait([self._task])

    async def close(self) -> None:
        self.end("closed by this side")
        await self.wait_ended()

    async def _run(self) -> None:
        parts = [asyncio.create_task(p) for p in (self._write(), self._read(), self._told())]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            self.end(_reason_of(done.pop()))
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            await self._stream.reset()

    async def _told(self) -> str:
        await self._ending.wait()
        return ""

    async def _write(self) -> str:
        if self._opening:
            await self._stream.write(self._opening)
        while True:
            await self._has_more.wait()
            self._has_more.clear()
            while self._queue:
                batch, size = self._next_batch()
                await self._stream.write(batch)
                self._queued_bytes -= size

    def _next_batch(self) -> tuple[bytes, int]:
        """What the next write carries, and how much of it is datagrams."""
        parts, size = [], 0
        while self._queue and size < WRITE_BYTES:
            datagram = self._queue.popleft()
            parts += [len(datagram).to_bytes(_LENGTH_BYTES, "big"), datagram]
            size += len(datagram)
        return b"".join(parts), size

    async def _read(self) -> str:
        self._pass_on()
        while data := await self._stream.read(READ_BYTES):
            self.heard_at = monotonic()
            self._unread += data
            self._pass_on()
        return "closed by the peer"

    def _pass_on(self) -> None:
        if datagrams := self._take():
            self._receive(datagrams)

    def _take(self) -> list[bytes]:
        """The whole datagrams that have arrived. What is left over is shorter than one."""
        datagrams, start, unread = [], 0, self._unread
        while start + _LENGTH_BYTES <= len(unread):
            size = int.from_bytes(unread[start : start + _LENGTH_BYTES], "big")
            if size > TUNNEL_DATAGRAM_BYTES:
                raise RemoteProtocolError("A datagram in the tunnel is longer than any of ours.")
            end = start + _LENGTH_BYTES + size
            if end > len(unread):
                break
            datagrams.append(bytes(unread[start + _LENGTH_BYTES : end]))
            start = end
        del unread[:start]
        return datagrams


def _reason_of(part: asyncio.Task[str]) -> str:
    error = part.exception()
    if error is None:
        return part.result()
    if isinstance(error, PieceworkError):
        return error.message
    log.error("a tunnel broke", exc_info=error)
    return "it broke"


async def read_link(stream: ControlStream) -> tuple[bytes, bytes]:
    """The link that an incoming tunnel is for, and what was read behind it."""
    data = b""
    while len(data) < LINK_BYTES:
        more = await stream.read(READ_BYTES)
        if not more:
            raise RemoteProtocolError("The tunnel ended before it named its link.")
        data += more
    return data[:LINK_BYTES], data[LINK_BYTES:]
