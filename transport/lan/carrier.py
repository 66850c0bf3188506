"""One TCP connection with TLS that carries one stream: bytes in, bytes out, and who waits.

First the two ends exchange the opening with `read_exactly` and `write_raw`; then `begin` hands
the connection to its stream, and from there on it carries chunks.
"""

import asyncio
import sys
from typing import TYPE_CHECKING, Final, cast

from protocol.errors import RemoteProtocolError
from transport.errors import PeerGone
from transport.lan.chunks import ChunkReader
from transport.lan.settings import StreamLimits
from transport.lan.wire import ChunkKind, chunk_header, code_chunk

if TYPE_CHECKING:
    from transport.lan.stream import LanStream

__all__ = ["SCRATCH_BYTES", "LanCarrier"]

SCRATCH_BYTES: Final = 256 * 1024
"""What is decrypted at a time: as much as the event loop reads from a socket at a time."""

_JOIN_BYTES_MAX: Final = 64 * 1024
"""Up to this size header and data are copied together, into one TLS record where they fit."""

_EARLY_BYTES_MAX: Final = 4096
"""An opening is shorter; a stranger who sends more before it is answered is not read on."""


class LanCarrier(asyncio.BufferedProtocol):
    """The `HalfCarrier` of one stream. `scratch` is shared by all carriers of one event loop."""

    def __init__(self, limits: StreamLimits, scratch: memoryview) -> None:
        self.is_lost = False
        self._limits = limits
        self._scratch = scratch
        self._transport: asyncio.Transport | None = None
        self._stream: LanStream | None = None
        self._reader: ChunkReader | None = None
        self._early = bytearray()
        self._early_waiter: asyncio.Future[None] | None = None
        self._is_reading_paused = False
        self._unread_bytes = 0

    @property
    def settings(self) -> StreamLimits:
        return self._limits

    # The opening

    async def read_exactly(self, size: int) -> bytes:
        """Before `begin` only. Raises PeerGone when the connection ends first."""
        while len(self._early) < size:
            if self.is_lost:
                raise PeerGone("The connection ended before the stream was open.")
            self._early_waiter = asyncio.get_running_loop().create_future()
            await self._early_waiter
        taken = bytes(self._early[:size])
        del self._early[:size]
        return taken

    def write_raw(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def begin(self, stream: "LanStream") -> None:
        """From here on chunks; the stream is told of all that arrives."""
        self._stream, self._reader = stream, ChunkReader(stream)
        early, self._early = bytes(self._early), bytearray()
        if early:
            self._feed(memoryview(early))
        self._resume_reading()
        if self.is_lost:
            stream.on_gone(PeerGone("The connection ended as the stream was opened."))

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        high = self._limits.unacknowledged_bytes_max
        self._transport.set_write_buffer_limits(high=high, low=high // 2)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        arrived = self._scratch[:nbytes]
        if self._stream is not None:
            self._feed(arrived)
            return
        self._early += arrived
        if len(self._early) > _EARLY_BYTES_MAX:
            self._pause_reading()
        self._wake_early()

    def eof_received(self) -> None:
        """TLS said goodbye; the connection closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._transport = None
        self._wake_early()
        if self._stream is not None:
            reason = f": {exc}" if exc else ""
            self._stream.on_gone(PeerGone(f"The LAN connection to the peer broke{reason}."))

    def pause_writing(self) -> None:
        """The half asks for `unacknowledged_bytes` before it writes."""

    def resume_writing(self) -> None:
        if self._stream is not None:
            self._stream.on_room()

    # Called by the stream and its halves; there is but one stream, so its id says nothing

    def write(self, stream_id: int, data: bytes, *, is_last: bool = False) -> None:
        if self._transport is None:
            return
        size = len(data)
        if size > _JOIN_BYTES_MAX:
            self._transport.writelines((chunk_header(ChunkKind.DATA, size), data))
        elif size:
            self._transport.write(chunk_header(ChunkKind.DATA, size) + data)
        if is_last:
            self._transport.write(chunk_header(ChunkKind.FIN, 0))

    def reset_stream(self, stream_id: int, code: int) -> None:
        self.write_raw(code_chunk(ChunkKind.RESET, code))

    def stop_stream(self, stream_id: int, code: int) -> None:
        self.write_raw(code_chunk(ChunkKind.STOP, code))

    def acknowledge_end(self) -> None:
        self.write_raw(chunk_header(ChunkKind.ENDED, 0))

    def consume(self, stream_id: int, count: int) -> None:
        self._unread_bytes -= count
        if self._is_reading_paused:
            self._resume_reading_if_room()

    def wait_for_room(self, stream_id: int) -> None:
        """Nothing to note: `resume_writing` tells every time."""

    def unacknowledged_bytes(self, stream_id: int) -> int:
        """What waits in this process; the limit looks at this."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def kernel_bytes(self) -> int:
        """What the kernel has taken and the peer's has not acknowledged; 0 where it cannot say."""
        if self._transport is None:
            return 0
        return _unacknowledged_in_kernel(self._transport.get_extra_info("socket").fileno())

    def close(self) -> None:
        """Everything has arrived at both ends: say goodbye."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _feed(self, data: memoryview) -> None:
        assert self._reader is not None
        assert self._stream is not None
        try:
            self._reader.feed(data)
        except RemoteProtocolError as error:
            self._stream.on_gone(PeerGone(f"The LAN connection was dropped: {error}"))
            self.abort()
            return
        if self._unread_bytes > self._limits.read_ahead_bytes and self._stream.has_frame:
            self._pause_reading()

    def on_arrived(self, size: int) -> None:
        """So much data is the stream's now, until it is consumed."""
        self._unread_bytes += size

    def _pause_reading(self) -> None:
        if not self._is_reading_paused and self._transport is not None:
            self._is_reading_paused = True
            self._transport.pause_reading()

    def _resume_reading_if_room(self) -> None:
        assert self._stream is not None
        # A large frame that is not whole yet needs room above the limit, or it would never end.
        has_room = self._unread_bytes <= self._limits.read_ahead_bytes // 2
        if has_room or not self._stream.has_frame:
            self._resume_reading()

    def _resume_reading(self) -> None:
        if self._is_reading_paused and self._transport is not None:
            self._is_reading_paused = False
            self._transport.resume_reading()

    def _wake_early(self) -> None:
        if self._early_waiter is not None and not self._early_waiter.done():
            self._early_waiter.set_result(None)


def _unacknowledged_in_kernel(descriptor: int) -> int:
    if sys.platform != "linux" or descriptor < 0:
        return 0
    import fcntl
    import termios

    answer = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(answer, sys.byteorder)
