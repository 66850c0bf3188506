"""An append-only file of co-signed receipts: length, CRC-32, bytes; fsynced at every append.

A torn write at the end (power cut) is recognised by its length or CRC and cut off at start.
"""

import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

from protocol.limits import RECORD_BYTES_MAX

__all__ = ["ReceiptLog"]

_HEADER = struct.Struct(">II")


class ReceiptLog:
    """One file, one writer. `append` blocks for the disk: call it off the event loop."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._lock = threading.Lock()
        self._end = sum(_HEADER.size + len(entry) for entry in self._entries())
        os.ftruncate(self._file, self._end)

    def load(self) -> list[bytes]:
        """Every whole entry, oldest first."""
        return list(self._entries())

    def append(self, entry: bytes) -> None:
        """Durable when it returns. Raises OSError (disk full): then the entry is not there."""
        data = _HEADER.pack(len(entry), zlib.crc32(entry)) + entry
        with self._lock:
            try:
                written = os.pwrite(self._file, data, self._end)
                if written != len(data):
                    raise OSError(f"only {written} of {len(data)} bytes fitted on the disk")
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, self._end)
                raise
            self._end += len(data)

    def reset(self) -> None:
        """Forget everything: all of it has been handed in."""
        with self._lock:
            os.ftruncate(self._file, 0)
            self._end = 0

    def close(self) -> None:
        os.close(self._file)

    def _entries(self) -> Iterator[bytes]:
        position = 0
        while len(header := os.pread(self._file, _HEADER.size, position)) == _HEADER.size:
            length, checksum = _HEADER.unpack(header)
            if length > RECORD_BYTES_MAX:
                return
            entry = os.pread(self._file, length, position + _HEADER.size)
            if len(entry) != length or zlib.crc32(entry) != checksum:
                return
            yield entry
            position += _HEADER.size + length
