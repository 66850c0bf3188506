"""Whole frames out of a byte stream: a 4-byte big-endian length, then that many bytes.

No I/O. The reader keeps raw bytes and cuts frames only when they are asked for: a million tiny
frames would otherwise cost ten times their size in objects.
"""

from typing import Final

from transport.errors import FrameTooLarge

__all__ = ["LENGTH_BYTES", "FrameReader", "RawReader", "encode_length"]

LENGTH_BYTES: Final = 4


def encode_length(frame_bytes: int) -> bytes:
    """The prefix of a frame of that many bytes."""
    return frame_bytes.to_bytes(LENGTH_BYTES, "big")


class FrameReader:
    """Reads frames incrementally; what it holds is bounded by the window of its stream."""

    __slots__ = ("_buffer", "_frame_bytes_max", "_scanned", "frame_count")

    def __init__(self, frame_bytes_max: int) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()
        self._scanned = 0
        """Where the first frame that is not complete begins."""
        self.frame_count = 0
        """Complete frames that can be taken now."""

    @property
    def buffered_bytes(self) -> int:
        return len(self._buffer)

    @property
    def is_between_frames(self) -> bool:
        """False while a frame has begun and not ended."""
        return self._scanned == len(self._buffer)

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the stream.

        Raises FrameTooLarge as soon as a length above the limit is seen; frames before it can
        still be taken, nothing of the large one is kept.
        """
        self._buffer += data
        available = len(self._buffer)
        while self._scanned + LENGTH_BYTES <= available:
            body_start = self._scanned + LENGTH_BYTES
            size = int.from_bytes(self._buffer[self._scanned : body_start], "big")
            if size > self._frame_bytes_max:
                del self._buffer[self._scanned :]
                raise FrameTooLarge(
                    f"A frame of {size} bytes was announced; at most {self._frame_bytes_max}."
                )
            if body_start + size > available:
                break
            self._scanned = body_start + size
            self.frame_count += 1

    def take(self) -> bytes | None:
        """The next complete frame, or None."""
        if not self.frame_count:
            return None
        size = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
        end = LENGTH_BYTES + size
        with memoryview(self._buffer) as view:
            frame = bytes(view[LENGTH_BYTES:end])
        del self._buffer[:end]
        self._scanned -= end
        self.frame_count -= 1
        return frame

    def clear(self) -> None:
        """Drop everything."""
        self._buffer = bytearray()
        self._scanned = self.frame_count = 0


class RawReader:
    """For libp2p's own protocols, which know no frames of ours: whatever arrived is one piece."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def buffered_bytes(self) -> int:
        return len(self._buffer)

    @property
    def is_between_frames(self) -> bool:
        return True

    @property
    def frame_count(self) -> int:
        return bool(self._buffer)

    def feed(self, data: bytes | memoryview) -> None:
        self._buffer += data

    def take(self) -> bytes | None:
        """All that is there, or None."""
        if not self._buffer:
            return None
        data, self._buffer = bytes(self._buffer), bytearray()
        return data

    def clear(self) -> None:
        """Drop everything."""
        self._buffer = bytearray()
