"""Datagrams through a control stream: how peers whose UDP is blocked still speak QUIC.

On the stream: 8 bytes naming the link, then datagrams, each behind 2 bytes of length. The queue is
short and drops what is newest, as a link's does: QUIC's own loss recovery and pacing then hold the
rate at what the stream carries, and nothing waits behind megabytes.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from protocol.datagram import LINK_BYTES
from protocol.errors import RemoteProtocolError
from transport.control_base import ControlStream
from transport.errors import TransportError

__all__ = ["TUNNEL_DATAGRAM_BYTES", "TUNNEL_PROTOCOL", "Tunnel", "read_link"]

TUNNEL_PROTOCOL: Final = "/piecework/tunnel/1"

TUNNEL_DATAGRAM_BYTES: Final = 8900
"""No path MTU limits a stream: fewer, larger packets cost both ends less."""

QUEUE_BYTES_MAX: Final = 256 * 1024
"""100 ms of 20 Mbit/s: what a home router's buffer holds as well."""

READ_BYTES: Final = 64 * 1024
_LENGTH_BYTES: Final = 2


class Tunnel:
    """Owned by one link. `receive` gets whole datagrams; `on_end` is called once, with why."""

    def __init__(
        self,
        stream: ControlStream,
        receive: Callable[[list[bytes]], None],
        on_end: Callable[[str], None],
        *,
        rest: bytes = b"",
    ) -> None:
        """`rest`: what was read behind the link's name already."""
        self.dropped_count = 0
        self._stream = stream
        self._receive = receive
        self._on_end = on_end
        self._unread = bytearray(rest)
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._is_ended = False
        self._has_more = asyncio.Event()
        self._tasks = [asyncio.create_task(run()) for run in (self._write, self._read)]

    def send(self, datagrams: list[bytes]) -> None:
        """Queue them; what does not fit is dropped and counted."""
        for datagram in datagrams:
            if self._is_ended or self._queued_bytes + len(datagram) > QUEUE_BYTES_MAX:
                self.dropped_count += 1
                continue
            self._queue.append(datagram)
            self._queued_bytes += len(datagram)
        self._has_more.set()

    async def close(self) -> None:
        self._end("closed by this side")
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stream.reset()

    async def _write(self) -> None:
        with self._ending():
            while True:
                await self._has_more.wait()
                self._has_more.clear()
                batch, self._queue = self._queue, deque()
                self._queued_bytes = 0
                if batch:
                    await self._stream.write(
                        b"".join(len(d).to_bytes(_LENGTH_BYTES, "big") + d for d in batch)
                    )

    async def _read(self) -> None:
        with self._ending():
            if datagrams := self._take():
                self._receive(datagrams)
            while data := await self._stream.read(READ_BYTES):
                self._unread += data
                if datagrams := self._take():
                    self._receive(datagrams)
            self._end("closed by the peer")

    def _take(self) -> list[bytes]:
        """The whole datagrams that have arrived. What is left over is shorter than one."""
        datagrams, start, unread = [], 0, self._unread
        while start + _LENGTH_BYTES <= len(unread):
            end = start + _LENGTH_BYTES + int.from_bytes(unread[start : start + 2], "big")
            if end - start > _LENGTH_BYTES + TUNNEL_DATAGRAM_BYTES:
                raise RemoteProtocolError("A datagram in the tunnel is longer than any of ours.")
            if end > len(unread):
                break
            datagrams.append(bytes(unread[start + _LENGTH_BYTES : end]))
            start = end
        del unread[:start]
        return datagrams

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        try:
            yield
        except (TransportError, RemoteProtocolError) as error:
            self._end(str(error))

    def _end(self, reason: str) -> None:
        if not self._is_ended:
            self._is_ended = True
            for task in self._tasks:
                if task is not asyncio.current_task():
                    task.cancel()
            self._on_end(reason)


async def read_link(stream: ControlStream) -> tuple[bytes, bytes]:
    """The link that an incoming tunnel is for, and what was read behind it."""
    data = b""
    while len(data) < LINK_BYTES:
        more = await stream.read(READ_BYTES)
        if not more:
            raise RemoteProtocolError("The tunnel ended before it named its link.")
        data += more
    return data[:LINK_BYTES], data[LINK_BYTES:]
