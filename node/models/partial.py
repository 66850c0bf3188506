"""A model directory that is being filled: weight files with holes, and the journal of what is in.

The journal is made before the first weight file, so a directory whose pull was killed at any
moment is never taken for a whole model. One process at a time writes; it holds a lock on the
journal. Methods block, and may be called from several threads.
"""

import errno
import fcntl
import json
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from node.engine.errors import ShardMismatch
from node.engine.holdings import JOURNAL_NAME, read_journal
from node.models.errors import ModelBusy

__all__ = ["PartialModel", "read_origin"]

ORIGIN_LINES_MAX = 16
"""The origin is the journal's first line."""


class PartialModel:
    """Made by `open`; `close` gives the lock back."""

    def __init__(self, directory: Path, journal: int, fetched: dict[str, bytes]) -> None:
        self.directory = directory
        self.fetched: Mapping[str, bytes] = fetched
        """SHA-256 of every tensor whose bytes are in its file."""
        self._fetched = fetched
        self._journal = journal
        self._files: dict[str, int] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Make or continue a pull. Raises ModelBusy."""
        directory.mkdir(parents=True, exist_ok=True)
        journal = os.open(directory / JOURNAL_NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(journal)
            raise ModelBusy(
                f"Another process is fetching the model in '{directory}'.",
                hint="Wait until it is done.",
            ) from None
        if (size := os.fstat(journal).st_size) and os.pread(journal, 1, size - 1) != b"\n":
            os.write(journal, b"\n")  # a torn last line must not swallow the next one
        return cls(directory, journal, read_journal(directory) or {})

    def write_file(self, name: str, data: bytes) -> None:
        """A small file beside the weights: all of it, or what was there before."""
        temporary = self.directory / f".{name}.part"
        temporary.write_bytes(data)
        temporary.replace(self.directory / name)

    def make_weight_file(
        self, file: str, header: bytes, size_bytes: int, names: Iterable[str]
    ) -> None:
        """A weight file at full length with its header; the rest is a hole.

        `names`: its tensors. Raises ShardMismatch where some of them are in a file that has another
        header: that is another version of the model.
        """
        path = self.directory / file
        if path.is_file() and path.stat().st_size == size_bytes:
            with path.open("rb") as stream:
                if stream.read(len(header)) == header:
                    return
        if any(name in self._fetched for name in names):
            raise ShardMismatch(
                f"'{path}' belongs to another version of the model.",
                hint="Remove that version with piecework models rm, or pull with its --revision.",
            )
        descriptor = self._descriptor(file)
        os.ftruncate(descriptor, 0)
        os.ftruncate(descriptor, size_bytes)
        _write_all(descriptor, header, 0)

    def write(self, file: str, start: int, data: bytes | memoryview) -> None:
        """Put bytes at their place. Raises OSError, with ENOSPC on a full disk."""
        with self._lock:  # for as long as it writes: a thread may outlive its cancelled fetch
            if self._is_closed:
                raise OSError(f"'{file}' is not being written any more")
            _write_all(self._descriptor(file), data, start)

    def record(self, name: str, sha256: bytes) -> None:
        """A tensor's bytes are all written: note it."""
        self._append({"tensor": name, "sha256": sha256.hex()})
        self._fetched[name] = sha256

    def record_origin(self, origin: str) -> None:
        """Where a model without a manifest comes from, exactly."""
        self._append({"origin": origin})

    def forget(self, names: Iterable[str]) -> None:
        """Tensors whose bytes are wrong after all: they will be fetched again."""
        for name in names:
            self._append({"tensor": name, "sha256": ""})
            self._fetched.pop(name, None)

    def sync(self, file: str) -> None:
        """The file's bytes, then the journal, onto the disk: a power cut loses one run at most."""
        with self._lock:
            if self._is_closed:
                return
            os.fsync(self._descriptor(file))
            os.fsync(self._journal)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            for descriptor in (*self._files.values(), self._journal):
                os.close(descriptor)
            self._files.clear()

    def _descriptor(self, file: str) -> int:
        if file not in self._files:
            path = self.directory / file
            self._files[file] = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        return self._files[file]

    def _append(self, entry: Mapping[str, str]) -> None:
        line = (json.dumps(entry) + "\n").encode()
        with self._lock:
            if self._is_closed:
                raise OSError("the journal is closed")
            _append_all(self._journal, line)


def read_origin(directory: Path) -> str | None:
    """Where a pull without a manifest has begun; None where none has, or a manifest decides."""
    path = directory / JOURNAL_NAME
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        for _ in range(ORIGIN_LINES_MAX):
            try:
                entry = json.loads(stream.readline(4096))
            except ValueError:
                continue
            if isinstance(entry, dict) and isinstance(entry.get("origin"), str):
                return str(entry["origin"])
    return None


def _write_all(descriptor: int, data: bytes | memoryview, start: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, start)
        view, start = view[count:], start + count


def _append_all(descriptor: int, line: bytes) -> None:
    """A line that could only be written in part (a full disk) is closed, so that it is torn."""
    if os.write(descriptor, line) != len(line):
        raise OSError(errno.ENOSPC, "the journal could only be written in part")
