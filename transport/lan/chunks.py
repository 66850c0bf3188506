"""Chunks out of a byte stream (lan_wire.py, part 3). No I/O, and no copies of data."""

from typing import Protocol

from protocol.errors import RemoteProtocolError
from transport.lan.wire import CODE_BYTES, HEADER_BYTES, ChunkKind

__all__ = ["ChunkReader", "ChunkSink"]

_CODED = (ChunkKind.RESET, ChunkKind.STOP)


class ChunkSink(Protocol):
    """Where chunks go, in order."""

    def on_data(self, data: memoryview) -> None:
        """The view is good during the call only."""

    def on_fin(self) -> None: ...
    def on_reset(self, code: int) -> None: ...
    def on_stop(self, code: int) -> None: ...
    def on_ended(self) -> None: ...


class ChunkReader:
    """Feeds its sink; holds at most one header and code."""

    __slots__ = ("_head", "_left", "_sink", "_wanted")

    def __init__(self, sink: ChunkSink) -> None:
        self._sink = sink
        self._head = b""
        self._wanted = HEADER_BYTES
        self._left = 0
        """Of a DATA chunk's bytes, still to come."""

    def feed(self, data: memoryview) -> None:
        """Take the next bytes; raises RemoteProtocolError, and nothing more is to be fed then."""
        at, end = 0, len(data)
        while at < end:
            if self._left:
                stop = min(end, at + self._left)
                self._left -= stop - at
                self._sink.on_data(data[at:stop])
                at = stop
                continue
            stop = min(end, at + self._wanted - len(self._head))
            self._head += bytes(data[at:stop])
            at = stop
            if len(self._head) == self._wanted:
                self._take_head()

    def _take_head(self) -> None:
        head = self._head
        kind, size = head[0], int.from_bytes(head[1:HEADER_BYTES], "big")
        if kind == ChunkKind.DATA:
            self._left = size
        elif kind in _CODED and size == CODE_BYTES:
            if len(head) == HEADER_BYTES:
                self._wanted = HEADER_BYTES + CODE_BYTES
                return
            code = int.from_bytes(head[HEADER_BYTES:], "big")
            (self._sink.on_reset if kind == ChunkKind.RESET else self._sink.on_stop)(code)
        elif kind == ChunkKind.FIN and size == 0:
            self._sink.on_fin()
        elif kind == ChunkKind.ENDED and size == 0:
            self._sink.on_ended()
        else:
            raise RemoteProtocolError(f"A chunk of kind {kind} and {size} bytes means nothing.")
        self._head = b""
        self._wanted = HEADER_BYTES
