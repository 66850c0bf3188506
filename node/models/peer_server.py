"""Sharing: answers `/piecework/weights/1` from a shelf, within a bound on askers and on the uplink.

A provider's uplink carries activations, which are paid and latency-bound; weights are neither. So
sharing is asked for (`--share-weights`), one rate holds for all askers together, and whoever comes
when too many are served is told BUSY.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from node.models.shelf import Item, SharedModel, Shelf
from protocol.identity import PeerId
from protocol.model import ModelManifest
from protocol.route import Span
from protocol.weights import (
    CHUNK_BYTES_MAX,
    PROTOCOL,
    REQUEST_BYTES_MAX,
    ReplyStatus,
    WeightReply,
    WeightRequest,
)
from transport.base import Host, Stream

__all__ = ["WeightServer", "share_weights"]

ASKERS_MAX: Final = 4
"""Streams served at once; more would only share the same uplink."""
BYTES_PER_S_MAX: Final = 8 * 1024 * 1024
"""Of all askers together: about half of a 150 Mbit/s uplink."""
REQUEST_TIMEOUT_S: Final = 30.0
"""An asker that has a stream and asks nothing gives its place to another."""
SEND_TIMEOUT_S: Final = 30.0
"""One chunk; who reads slower than a MiB in this time is not served."""
GONE: Final = 2
"""The reset code towards an asker that was too slow, broke the rules, or is not given anything."""

log = logging.getLogger(__name__)


def share_weights(host: Host, manifest: ModelManifest, directory: Path, span: Span) -> None:
    """Serve a span that was just verified, and what a pull has verified beside it, until the host
    closes."""
    shelf = Shelf()
    shelf.put(SharedModel.of_span(manifest, directory, span))
    WeightServer(host, shelf).start()


class WeightServer:
    """Owned by the program that owns the host; `start` and `stop` set and clear the handler."""

    def __init__(
        self,
        host: Host,
        shelf: Shelf,
        *,
        bytes_per_s_max: int = BYTES_PER_S_MAX,
        gives_to: Callable[[PeerId], bool] = lambda _: True,
    ) -> None:
        self._host = host
        self._shelf = shelf
        self._pace = _Pace(bytes_per_s_max, asyncio.get_running_loop().time)
        self._gives_to = gives_to
        self._askers = 0
        self.shared_bytes = 0
        """Given to others since the start."""

    def start(self) -> None:
        self._host.set_handler(PROTOCOL, self._serve)

    def stop(self) -> None:
        self._host.set_handler(PROTOCOL, None)

    async def _serve(self, stream: Stream) -> None:
        if not self._gives_to(stream.peer_id):
            stream.reset(GONE)
            return
        if self._askers >= ASKERS_MAX:
            await self._refuse_once(stream)
            return
        self._askers += 1
        try:
            while (request := await _receive(stream)) is not None:
                await self._answer(stream, request)
            stream.finish()
        except TimeoutError:
            stream.reset(GONE)
        finally:
            self._askers -= 1

    async def _refuse_once(self, stream: Stream) -> None:
        """Read what is asked, so that the refusal answers it, and no more."""
        try:
            if await _receive(stream) is not None:
                await _send(stream, WeightReply.refusal(ReplyStatus.BUSY).encode())
                stream.finish()
        except TimeoutError:
            stream.reset(GONE)

    async def _answer(self, stream: Stream, request: WeightRequest) -> None:
        item = await asyncio.to_thread(self._shelf.find, request)
        if item is None or request.start > item.end - item.start:
            await _send(stream, WeightReply.refusal(ReplyStatus.NOT_HERE).encode())
            return
        size = item.end - item.start
        end = min(request.end, size)
        await _send(stream, WeightReply(ReplyStatus.OK, size, request.start, end).encode())
        position = request.start
        while position < end:
            count = min(CHUNK_BYTES_MAX, end - position)
            await self._pace.wait(count)
            chunk = await asyncio.to_thread(_read, item, position, count)
            await _send(stream, chunk)
            position += count
            self.shared_bytes += count


class _Pace:
    """So many bytes a second, and a second's worth at once."""

    def __init__(self, bytes_per_s: int, clock: Callable[[], float]) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._free_at_s = 0.0

    async def wait(self, count: int) -> None:
        now_s = self._clock()
        self._free_at_s = max(self._free_at_s, now_s - 1.0) + count / self._bytes_per_s
        if self._free_at_s > now_s:
            await asyncio.sleep(self._free_at_s - now_s)


async def _receive(stream: Stream) -> WeightRequest | None:
    """The next request, or None at the end. Raises TimeoutError or RemoteProtocolError."""
    async with asyncio.timeout(REQUEST_TIMEOUT_S):
        frame = await stream.receive()
    return None if frame is None else WeightRequest.decode(frame[: REQUEST_BYTES_MAX + 1])


async def _send(stream: Stream, data: bytes) -> None:
    async with asyncio.timeout(SEND_TIMEOUT_S):
        await stream.send(data)


def _read(item: Item, position: int, count: int) -> bytes:
    """Bytes of an item. Raises OSError when the file has become shorter: the stream then ends."""
    if item.path is None:
        return item.data[position : position + count]
    return _read_file(item.path, item.start + position, count)


def _read_file(path: Path, start: int, count: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        data = os.pread(descriptor, count, start)
    finally:
        os.close(descriptor)
    if len(data) != count:
        raise OSError(f"'{path.name}' has become shorter")
    return data
