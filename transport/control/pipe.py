"""What lies under Noise: the bytes of a TCP connection, or of a circuit through a relay.

Lives in the muxer's thread. Reads are exact, so that messages may arrive in any number of pieces
(D26), and until the handshake is over we take only so much from a stranger (D27).
"""

from contextlib import suppress
from typing import Any, Protocol

import trio

from transport.control.circuit_answer import CircuitAnswer
from transport.control.defects import finish_muxed, read_muxed, reset_muxed, write_muxed
from transport.control.library import ConnectionClosedError, ReadWriteCloser, YamuxStream
from transport.control.settings import ControlSettings
from transport.errors import TransportError

__all__ = ["CircuitSource", "Pipe", "Source", "TcpSource"]


class Source(Protocol):
    """Raises ConnectionClosedError once it is broken or closed."""

    async def receive(self, bytes_max: int) -> bytes: ...
    async def send(self, data: bytes) -> None: ...
    async def close(self) -> None: ...
    def abort(self) -> None: ...


class TcpSource:
    """A TCP connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def receive(self, bytes_max: int) -> bytes:
        try:
            return bytes(await self._stream.receive_some(bytes_max))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(f"TCP: {error}") from error

    async def send(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(f"TCP: {error}") from error

    async def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        """Wakes whoever is sending or receiving."""
        self._stream.socket.close()


class CircuitSource:
    """A stream to a relay, on which the relay has joined us to another peer."""

    def __init__(
        self, stream: YamuxStream, unread: bytes, answer: CircuitAnswer | None = None
    ) -> None:
        """`answer`: the relay's to our CONNECT, which is the first thing to be received."""
        self._stream = stream
        self._unread = unread
        self._answer = answer

    async def receive(self, bytes_max: int) -> bytes:
        """Also raises what `CircuitAnswer` does, as long as it is not over."""
        while self._answer is not None and not self._answer.is_over:
            data = await self._receive(bytes_max)
            self._unread = self._answer.feed(data) + self._unread
        return await self._receive(bytes_max)

    async def _receive(self, bytes_max: int) -> bytes:
        if self._unread:
            data, self._unread = self._unread[:bytes_max], self._unread[bytes_max:]
            return data
        try:
            return await read_muxed(self._stream, bytes_max)
        except TransportError as error:
            raise ConnectionClosedError(f"The circuit ended: {error}") from error

    async def send(self, data: bytes) -> None:
        try:
            await write_muxed(self._stream, data)
        except TransportError as error:
            raise ConnectionClosedError(f"The circuit ended: {error}") from error

    async def close(self) -> None:
        """FIN, so that the relay passes on what was sent; then RST, for nothing may follow."""
        await finish_muxed(self._stream)
        await reset_muxed(self._stream)

    def abort(self) -> None:
        """Wakes a writer; a reader wakes by being cancelled. The relay learns of it by `close`."""
        self._stream.send_closed = True


class Pipe(ReadWriteCloser):  # type: ignore[misc]
    """What the library reads and writes."""

    def __init__(self, source: Source, settings: ControlSettings) -> None:
        self.heard_at_s = trio.current_time()
        self._source = source
        self._chunk_bytes = settings.read_bytes_max
        self._allowed_bytes: int | None = settings.handshake_bytes_max
        self._buffer = bytearray()
        self._is_closed = False

    def allow_all(self) -> None:
        """The handshake is over; from now on the muxer bounds what is held."""
        self._allowed_bytes = None

    async def read(self, n: int | None = None) -> bytes:
        """Exactly `n` bytes; fewer only at the end. Without `n` what is there."""
        wanted = 1 if n is None else n
        while len(self._buffer) < wanted:
            data = await self._source.receive(self._receivable_bytes())
            if not data:
                break
            self.heard_at_s = trio.current_time()
            if self._allowed_bytes is not None:
                self._allowed_bytes -= len(data)
            self._buffer += data
        end = len(self._buffer) if n is None else n
        taken = bytes(self._buffer[:end])
        del self._buffer[:end]
        return taken

    async def write(self, data: bytes) -> None:
        await self._source.send(data)

    async def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            with suppress(ConnectionClosedError):
                await self._source.close()

    def abort(self) -> None:
        """At once, without a word."""
        self._source.abort()

    def get_remote_address(self) -> Any:
        return None

    def _receivable_bytes(self) -> int:
        """No more than is allowed: who dials may send his first streams with the handshake's end,
        and they wait in the network until it is over here too."""
        if self._allowed_bytes is None:
            return self._chunk_bytes
        if self._allowed_bytes <= 0:
            raise ConnectionClosedError("The peer sent too much before it said who it is.")
        return min(self._chunk_bytes, self._allowed_bytes)
