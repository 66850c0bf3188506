"""The marketplace's signed answers to our receipts, kept on disk: proof of what it took or refused.

Append-only: length, CRC-32, bytes, fsynced. A torn end is cut off at start. When the file is full,
the older half goes: what was taken is in the public log by then.
"""

import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from protocol.acknowledgement import REJECTED, SIGNED_RESULTS_BYTES_MAX, SignedResults
from protocol.errors import ProtocolError
from protocol.identity import PeerId

__all__ = ["ANSWERS_BYTES_MAX", "AnswerLog"]

ANSWERS_BYTES_MAX = 8 * 1024 * 1024
"""About 70 000 results; weeks of a busy home."""

_HEADER = struct.Struct(">II")


class AnswerLog:
    """One file, one writer. Everything blocks for the disk: call it off the event loop.

    `market`: whose signature counts; `provider`: ourselves.
    """

    def __init__(
        self, path: Path, *, market: PeerId, provider: PeerId, bytes_max: int = ANSWERS_BYTES_MAX
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._market = market
        self._provider = provider
        self._bytes_max = bytes_max
        self._entries: list[bytes] = list(_read(path))
        self._write(self._entries)

    def keep(self, answer: SignedResults) -> None:
        """Verify an answer and keep it; durable when it returns.

        Raises RemoteProtocolError or a VerificationError for one that the marketplace has not
        signed, and OSError (disk full).
        """
        answer.verify(market=self._market, provider=self._provider)
        entry = answer.encode()
        self._entries.append(entry)
        if sum(map(len, self._entries)) > self._bytes_max:
            self._entries = self._entries[len(self._entries) // 2 :]
            self._write(self._entries)
            return
        with self._path.open("ab") as file:
            file.write(_framed(entry))
            file.flush()
            os.fsync(file.fileno())

    def answers(self) -> list[SignedResults]:
        """Everything kept, oldest first."""
        return [SignedResults.decode(entry) for entry in self._entries]

    def refused(self) -> Counter[str]:
        """How many receipts were refused, by reason."""
        return Counter(
            result.reason
            for answer in self.answers()
            for result in answer.results
            if result.status == REJECTED
        )

    def _write(self, entries: list[bytes]) -> None:
        """The whole file anew, or the old one: never half."""
        draft = self._path.with_suffix(".new")
        with draft.open("wb") as file:
            for entry in entries:
                file.write(_framed(entry))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)


def _framed(entry: bytes) -> bytes:
    return _HEADER.pack(len(entry), zlib.crc32(entry)) + entry


def _read(path: Path) -> Iterator[bytes]:
    """Every whole entry that parses, up to the first that does not."""
    if not path.exists():
        return
    with path.open("rb") as file:
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            length, checksum = _HEADER.unpack(header)
            if length > SIGNED_RESULTS_BYTES_MAX:
                return
            entry = file.read(length)
            if len(entry) != length or zlib.crc32(entry) != checksum:
                return
            try:
                SignedResults.decode(entry)
            except ProtocolError:
                return
            yield entry
