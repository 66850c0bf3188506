"""What has arrived out of order, bounded and found quickly; a third part of `private`.

aioquic walks through all ranges that arrived for each frame, and has no limit to them: a stranger
whose first packets leave gaps on purpose stops the event loop, 45 ms a packet after 300 KB, before
he has proved even his address. Here a range is found by bisection, and too many end the connection.
"""

from bisect import bisect_left
from typing import Final

from aioquic._buffer import Buffer
from aioquic.quic.connection import QuicConnection, QuicConnectionError, QuicReceiveContext
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.stream import QuicStream

__all__ = ["CRYPTO_BYTES_MAX", "CRYPTO_GAPS_MAX", "STREAM_GAPS_MAX", "Arrived", "BoundedReceipt"]

STREAM_GAPS_MAX: Final = 2048
"""Of one stream: what every fifth packet lost leaves of 10 MB under way, and 0.2 MB of memory."""

CRYPTO_GAPS_MAX: Final = 32
"""Of a handshake's bytes, which fill four packets."""

CRYPTO_BYTES_MAX: Final = 64 * 1024
"""A handshake's bytes that may come ahead of others: aioquic sets aside room for the gap too, and
takes 512 KiB. Our certificates have 0.5 KB, and nobody's 16."""


class Arrived(RangeSet):
    """Owned by one receiving stream of aioquic, which adds, and takes from the front."""

    def __init__(self, gaps_max: int) -> None:
        super().__init__()
        self._gaps_max = gaps_max

    def add(self, start: int, stop: int | None = None) -> None:
        """Raises QuicConnectionError when there are too many gaps."""
        end = start + 1 if stop is None else stop
        ranges: list[range] = self._RangeSet__ranges  # type: ignore[attr-defined]  # its own list
        first = bisect_left(ranges, start, key=_stop)
        # All that `start` to `end` touches becomes one.
        after = first
        while after < len(ranges) and ranges[after].start <= end:
            start, end = min(start, ranges[after].start), max(end, ranges[after].stop)
            after += 1
        ranges[first:after] = [range(start, end)]
        if len(ranges) > self._gaps_max:
            raise QuicConnectionError(
                error_code=QuicErrorCode.INTERNAL_ERROR,
                frame_type=QuicFrameType.STREAM_BASE,
                reason_phrase="too many gaps in what arrived",
            )


class BoundedReceipt(QuicConnection):
    """Gives every stream, and the handshake's bytes, such ranges before they hold anything."""

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        for stream in self._crypto_streams.values():
            stream.receiver._ranges = Arrived(CRYPTO_GAPS_MAX)

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        stream = super()._get_or_create_stream(frame_type, stream_id)
        if type(stream.receiver._ranges) is RangeSet:
            stream.receiver._ranges = Arrived(STREAM_GAPS_MAX)
        return stream

    def _handle_crypto_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        begin = buf.tell()
        end = buf.pull_uint_var() + buf.pull_uint_var()
        buf.seek(begin)
        received = self._crypto_streams[context.epoch].receiver.starting_offset()
        if end - received > CRYPTO_BYTES_MAX:
            raise QuicConnectionError(
                error_code=QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
                frame_type=frame_type,
                reason_phrase="too much of the handshake ahead of the rest",
            )
        super()._handle_crypto_frame(context, frame_type, buf)


def _stop(each: range) -> int:
    return each.stop
