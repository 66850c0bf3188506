"""SHA-256 of files and of ranges of files, with little memory."""

import hashlib
from pathlib import Path

from node.engine.errors import ModelNotFound, WeightsCorrupt

__all__ = ["hash_file", "hash_range"]

CHUNK_BYTES = 4 * 1024 * 1024
"""Read at a time: large enough that the hash, not the reading, takes the time."""


def hash_range(path: Path, start: int, end: int) -> bytes | None:
    """SHA-256 of a file's bytes [start, end), or None where the file has not so many."""
    digest = hashlib.sha256()
    left = end - start
    buffer = memoryview(bytearray(min(CHUNK_BYTES, max(left, 1))))
    try:
        with path.open("rb") as stream:
            stream.seek(start)
            while left:
                count = stream.readinto(buffer[: min(left, len(buffer))])
                if not count:
                    return None
                digest.update(buffer[:count])
                left -= count
    except FileNotFoundError:
        return None
    return digest.digest()


def hash_file(path: Path) -> bytes:
    """SHA-256 of a whole file. Raises ModelNotFound, or WeightsCorrupt when it shrinks."""
    if not path.is_file():
        raise ModelNotFound(f"'{path.parent}' holds no {path.name}.")
    digest = hash_range(path, 0, path.stat().st_size)
    if digest is None:
        raise WeightsCorrupt(f"'{path}' changed while it was read.")
    return digest
