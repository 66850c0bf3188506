"""The two directions of a QUIC stream: each ends, fails and waits on its own (RFC 9000 section 3).

Neither does I/O; both speak to the connection through the `HalfCarrier` seam.
"""

import asyncio
from typing import Final

from protocol.errors import LocalProtocolError, PieceworkError, RemoteProtocolError
from transport.framing import LENGTH_BYTES, FrameReader, RawReader, encode_length
from transport.quic.seams import HalfCarrier, ResetCode

__all__ = ["ReceivingHalf", "SendingHalf"]

_JOIN_BYTES_MAX: Final = 64 * 1024
"""Frames up to this size are joined and queued at once; larger ones are queued in slices."""


class SendingHalf:
    """Frames out, slowed by what the peer has not acknowledged."""

    def __init__(self, carrier: HalfCarrier, stream_id: int) -> None:
        self.error: PieceworkError | None = None
        """Why nothing more can be sent, other than having finished."""
        self.is_finished = False
        self.is_raw = False
        """Bytes as they are, without lengths: libp2p's own protocols."""
        self.frame_count = self.byte_count = 0
        self._carrier = carrier
        self._stream_id = stream_id
        self._room_waiter: asyncio.Future[None] | None = None

    @property
    def is_done(self) -> bool:
        return self.is_finished or self.error is not None

    async def send(self, parts: tuple[bytes, ...]) -> None:
        """Queue one frame; waits while more than the limit is unacknowledged."""
        size = sum(map(len, parts))
        if size > self._carrier.settings.frame_bytes_max:
            raise LocalProtocolError(f"A frame of {size} bytes is above the limit of this host.")
        await self._wait_for_room()
        length = b"" if self.is_raw else encode_length(size)
        if size <= _JOIN_BYTES_MAX:
            self._carrier.write(self._stream_id, b"".join((length, *parts)))
        else:
            await self._send_sliced(length, parts)
        self.frame_count += 1
        self.byte_count += len(length) + size
        await self._wait_for_room()

    def finish(self) -> None:
        if not self.is_done:
            self.is_finished = True
            self._carrier.write(self._stream_id, b"", is_last=True)

    def reset(self, error: PieceworkError, code: int) -> None:
        """Give up, also after finishing: what is not acknowledged need not arrive."""
        if self.error is None:
            self.fail(error)
            self._carrier.reset_stream(self._stream_id, code)

    def fail(self, error: PieceworkError) -> None:
        if self.error is None:
            self.error = error
        wake(self._room_waiter)

    def on_room(self) -> None:
        wake(self._room_waiter)

    async def _send_sliced(self, length: bytes, parts: tuple[bytes, ...]) -> None:
        step = self._carrier.settings.send_slice_bytes
        self._carrier.write(self._stream_id, length)
        try:
            for part in parts:
                with memoryview(part) as view:
                    for start in range(0, len(part), step):
                        await self._wait_for_room()
                        self._carrier.write(self._stream_id, bytes(view[start : start + step]))
        except asyncio.CancelledError:
            # Half a frame is queued: nothing that follows could be understood.
            error = LocalProtocolError("Sending was cancelled in the middle of a frame.")
            self.reset(error, ResetCode.CANCELLED)
            raise

    async def _wait_for_room(self) -> None:
        limit = self._carrier.settings.unacknowledged_bytes_max
        self._check()
        while self._carrier.unacknowledged_bytes(self._stream_id) > limit:
            if self._room_waiter is not None:
                raise LocalProtocolError("Two tasks send on one stream.")
            self._room_waiter = asyncio.get_running_loop().create_future()
            self._carrier.wait_for_room(self._stream_id)
            try:
                await self._room_waiter
            finally:
                self._room_waiter = None
            self._check()

    def _check(self) -> None:
        if self.error is not None:
            raise self.error
        if self.is_finished:
            raise LocalProtocolError("The stream is finished: nothing more can be sent.")


class ReceivingHalf:
    """Frames in; the peer's window moves only when a frame is taken, or when all is given up."""

    def __init__(self, carrier: HalfCarrier, stream_id: int) -> None:
        self.error: PieceworkError | None = None
        """Raised by `receive` once the frames that came before it are taken."""
        self.is_finished = False
        """The peer has finished or reset: no further bytes arrive."""
        self.frame_count = self.byte_count = 0
        self._carrier = carrier
        self._stream_id = stream_id
        self._reader: FrameReader | RawReader = FrameReader(carrier.settings.frame_bytes_max)
        self._length_bytes = LENGTH_BYTES
        self._waiter: asyncio.Future[None] | None = None
        self._arrived_bytes = self._consumed_bytes = 0

    @property
    def has_frame(self) -> bool:
        """Whether a whole frame waits to be taken."""
        return self._reader.frame_count > 0

    async def receive(self) -> bytes | None:
        """The next frame, or None at the end."""
        while True:
            if (frame := self._reader.take()) is not None:
                size = self._length_bytes + len(frame)
                self.frame_count += 1
                self.byte_count += size
                self.consume(size)
                return frame
            if self.error is not None:
                raise self.error
            if self.is_finished:
                return None
            if self._waiter is not None:
                raise LocalProtocolError("Two tasks receive from one stream.")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def read_raw(self) -> None:
        """From the start on, bytes as they come: libp2p's own protocols."""
        self._reader, self._length_bytes = RawReader(), 0

    def on_arrived(self, size: int) -> None:
        """`size` bytes of the stream came in order; they are to be fed, consumed or dropped."""
        self._arrived_bytes += size

    def feed(self, data: bytes | memoryview) -> None:
        """Bytes that belong to frames. Raises FrameTooLarge."""
        if self.error is not None:
            self.drop_unread()
            return
        self._reader.feed(data)
        if self._reader.frame_count:
            wake(self._waiter)

    def consume(self, size: int) -> None:
        """`size` bytes will not be held any more."""
        if size:
            self._consumed_bytes += size
            self._carrier.consume(self._stream_id, size)

    def drop_unread(self) -> None:
        self._reader.clear()
        self.consume(self._arrived_bytes - self._consumed_bytes)

    def finish(self) -> None:
        """The peer finished in order."""
        self.is_finished = True
        if self.error is None and not self._reader.is_between_frames:
            self.error = RemoteProtocolError("The stream ended within a frame.")
        wake(self._waiter)

    def finish_by_reset(self, error: PieceworkError, window_used_bytes: int) -> None:
        """The peer reset, having used that much of the window in all."""
        self.is_finished = True
        self._arrived_bytes = max(self._arrived_bytes, window_used_bytes)
        self.error = self.error or error
        self.drop_unread()
        wake(self._waiter)

    def stop(self, error: PieceworkError, code: int) -> None:
        """Read no more, and ask the peer to send no more."""
        if self.error is None:
            self.error = error
            self.drop_unread()
            wake(self._waiter)
            if not self.is_finished:
                self._carrier.stop_stream(self._stream_id, code)

    def fail(self, error: PieceworkError) -> None:
        """The connection is gone; whole frames that arrived can still be taken."""
        if self.error is None and not self.is_finished:
            self.error = error
        wake(self._waiter)


def wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
