"""A process's journal of what it asked for and what was acknowledged: JSON lines, each fsynced.

It is the oracle's only witness, so it is written before a request goes out and again before an
answer is acted on. A line that a SIGKILL tore is no line: what it would have said was never used.
"""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["Journal", "read_journal"]

Line = dict[str, Any]


class Journal:
    """Appends; safe to use from many threads."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        whole = _whole_bytes(path)
        self._file = path.open("ab")
        # a torn last line is cut off, or the next one would be glued to it
        self._file.truncate(whole)

    def write(self, *lines: Line) -> None:
        """Durable when it returns."""
        data = b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)
        with self._lock:
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_journal(path: Path) -> Iterator[Line]:
    """Every whole line, oldest first; nothing where there is no file."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def _whole_bytes(path: Path) -> int:
    """Size up to the last line end."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        while size:
            start = max(0, size - 65_536)
            file.seek(start)
            found = file.read(size - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            size = start
    return 0
