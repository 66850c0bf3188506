"""Streams and connections in memory, for `testing.FakeControl`.

They bound, delay and end as the real ones do: a writer waits for the window, what was written
before the end is read before it, and a lost connection is never taken for the end of a stream.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from protocol.errors import LocalProtocolError
from protocol.identity import PeerId
from transport.control.base import ControlConnection, ControlStream
from transport.errors import PeerGone, ProtocolNotSupported, StreamReset, TransportError

if TYPE_CHECKING:
    from transport.control.testing import FakeControlHost

__all__ = ["FakeControlConnection", "FakeControlStream"]

WINDOW_BYTES: Final = 256 * 1024
"""What a stream may hold unread, as yamux's."""


class _Lane:
    """One direction of a stream."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._arrived: deque[bytes] = deque()
        self._held_bytes = 0
        self._is_finished = False
        self._failure: TransportError | None = None
        self._changed = asyncio.Event()

    async def write(self, data: bytes) -> None:
        sent = 0
        while sent < len(data):
            if self._failure is not None:
                raise self._failure
            size = min(WINDOW_BYTES - self._held_bytes, len(data) - sent)
            if size <= 0:
                await self._wait()
                continue
            self._held_bytes += size
            self._after_delay(data[sent : sent + size])
            sent += size

    async def read(self, bytes_max: int) -> bytes:
        while not self._arrived:
            if self._failure is not None:
                raise self._failure
            if self._is_finished:
                return b""
            await self._wait()
        first = self._arrived.popleft()
        if len(first) > bytes_max:
            self._arrived.appendleft(first[bytes_max:])
            first = first[:bytes_max]
        self._held_bytes -= len(first)
        self._wake()
        return first

    def finish(self) -> None:
        self._after_delay(b"")

    def fail(self, error: TransportError) -> None:
        """The first reason counts; what has arrived can still be read after a lost connection."""
        if self._failure is None:
            self._failure = error
            if isinstance(error, StreamReset):
                self._arrived.clear()
            self._wake()

    def _after_delay(self, data: bytes) -> None:
        if self._delay_s:
            asyncio.get_running_loop().call_later(self._delay_s, self._arrive, data)
        else:
            self._arrive(data)

    def _arrive(self, data: bytes) -> None:
        if data:
            self._arrived.append(data)
        else:
            self._is_finished = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait(self) -> None:
        await self._changed.wait()


class FakeControlStream(ControlStream):
    """One end; `twin` is the other."""

    def __init__(self, owner: "FakeControlConnection", reads: _Lane, writes: _Lane) -> None:
        self._owner = owner
        self._reads = reads
        self._writes = writes
        self._is_finished = False
        self._is_closed = False

    @property
    def peer_id(self) -> PeerId:
        return self._owner.peer_id

    @property
    def is_relayed(self) -> bool:
        return self._owner.is_relayed

    @property
    def remote(self) -> str:
        return self._owner.remote

    async def read(self, bytes_max: int) -> bytes:
        if bytes_max < 1:
            raise LocalProtocolError("A read of no bytes cannot tell whether the stream has ended.")
        if self._is_closed:
            raise LocalProtocolError("The stream is closed on this side.")
        return await self._reads.read(bytes_max)

    async def write(self, data: bytes) -> None:
        if self._is_closed or self._is_finished:
            raise LocalProtocolError("Nothing can be written after the end of the stream.")
        await self._writes.write(data)

    async def finish(self) -> None:
        if not self._is_closed and not self._is_finished:
            self._is_finished = True
            self._writes.finish()

    async def close(self) -> None:
        await self.finish()
        self._is_closed = True
        self._owner.streams.discard(self)

    async def reset(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self.fail(StreamReset("The stream was reset.", 0))
            self._owner.streams.discard(self)

    def fail(self, error: TransportError) -> None:
        self._reads.fail(error)
        self._writes.fail(error)


class FakeControlConnection(ControlConnection):
    """One end; `twin` is the other. Made by `FakeControl`."""

    twin: "FakeControlConnection"

    def __init__(
        self,
        host: "FakeControlHost",
        peer: "FakeControlHost",
        relay: "FakeControlHost | None",
        delay_s: float,
    ) -> None:
        self.host = host
        self.peer = peer
        self.relay = relay
        self.streams: set[FakeControlStream] = set()
        self._delay_s = delay_s
        self._closed = asyncio.Event()

    @property
    def peer_id(self) -> PeerId:
        return self.peer.peer_id

    @property
    def is_relayed(self) -> bool:
        return self.relay is not None

    @property
    def remote(self) -> str:
        return (self.relay or self.peer).socket

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    async def open_stream(self, protocol: str, *, timeout_s: float) -> FakeControlStream:
        if self.is_closed:
            raise PeerGone("The connection is closed.")
        one, other = _Lane(self._delay_s), _Lane(self._delay_s)
        near, far = FakeControlStream(self, one, other), FakeControlStream(self.twin, other, one)
        self.streams.add(near)
        self.twin.streams.add(far)
        self.peer.handlers.spawn(self._answer(protocol, near, far))
        return near

    async def _answer(self, protocol: str, near: FakeControlStream, far: FakeControlStream) -> None:
        """The peer's side, half a round trip later; his refusal takes the other half."""
        await asyncio.sleep(self._delay_s)
        if self.peer.handlers.is_served(protocol):
            await self.peer.handlers.serve(far, protocol)
            return
        await asyncio.sleep(self._delay_s)
        near.fail(ProtocolNotSupported(f"The peer does not speak '{protocol}'."))
        await far.reset()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    async def close(self) -> None:
        self.end("The connection was closed.")

    def end(self, reason: str) -> None:
        """Both ends notice at once."""
        for end in (self, self.twin):
            if not end.is_closed:
                end._closed.set()
                end.host.forget(end)
                for stream in tuple(end.streams):
                    stream.fail(PeerGone(reason))
                end.streams.clear()
