"""A log as a directory of static files (C2SP tlog-tiles), for a CDN or a USB stick.

    DIR/checkpoint          the signed note, with its cosignatures
    DIR/totals.json         what the book said at that size
    DIR/tile/…              as `ledger/tiles.py` names them

Written so that a reader who comes in the midst sees an older checkpoint whose tiles are all there:
full tiles are never written twice, the checkpoint last.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ledger.checkpoint import NOTE_BYTES_MAX, Checkpoint
from ledger.errors import AuditFailed
from ledger.tiles import (
    ENTRY_BYTES_MAX,
    TILE_BYTES,
    TILE_HASHES,
    TILE_HEIGHT,
    TileName,
    decode_entries,
    tile_width,
    tiles_of,
)
from ledger.tree import HASH_BYTES, leaf_hash, node_hash

__all__ = ["check_tiles", "export_log", "read_checkpoint", "read_entries"]

CHECKPOINT = "checkpoint"
TOTALS = "totals.json"
BUNDLE_BYTES_MAX = TILE_HASHES * (ENTRY_BYTES_MAX + 2)


def export_log(
    directory: Path,
    note: str,
    size: int,
    totals: Mapping[str, int],
    read: Callable[[TileName], bytes],
) -> int:
    """Write what is not there yet; gives how many files. `read` is `ledger.log.Log.tile`."""
    written = 0
    for name in tiles_of(size):
        path = directory.joinpath(name.path)
        if not path.exists():
            _write(path, read(name))
            written += 1
    _write(directory.joinpath(TOTALS), json.dumps({"size": size, **totals}).encode())
    _write(directory.joinpath(CHECKPOINT), note.encode())
    return written + 2


def read_checkpoint(directory: Path) -> tuple[str, dict[str, int]]:
    """The note and the totals of a directory; raises AuditFailed for one that is no log."""
    try:
        note = _read(directory.joinpath(CHECKPOINT), NOTE_BYTES_MAX).decode()
        path = directory.joinpath(TOTALS)
        totals = json.loads(_read(path, NOTE_BYTES_MAX)) if path.exists() else {}
    except (ValueError, RecursionError):
        raise AuditFailed(f"What is in {directory} is no log.") from None
    if not isinstance(totals, dict) or not all(isinstance(item, int) for item in totals.values()):
        raise AuditFailed(f"{directory.joinpath(TOTALS)} does not say what the book came to.")
    return note, totals


def read_entries(directory: Path, size: int) -> Iterator[bytes]:
    """Every entry in order; raises AuditFailed for a bundle that is not there or damaged."""
    for index in range(-(-size // TILE_HASHES)):
        name = TileName(None, index, tile_width(0, index, size))
        entries = decode_entries(_read(directory.joinpath(name.path), BUNDLE_BYTES_MAX))
        if len(entries) != name.width:
            raise AuditFailed(f"{name.path} has {len(entries)} entries, not {name.width}.")
        yield from entries


def check_tiles(directory: Path, checkpoint: Checkpoint) -> Iterator[str]:
    """What is wrong with tiles of hashes: each is made again from what lies below it."""
    for name in tiles_of(checkpoint.size):
        if name.level is None:
            continue
        try:
            expected = b"".join(_hashes(directory, name, checkpoint.size))
            if _read(directory.joinpath(name.path), TILE_BYTES) != expected:
                yield f"{name.path} differs from what lies below it"
        except AuditFailed as error:
            yield str(error)


def _hashes(directory: Path, name: TileName, size: int) -> Iterator[bytes]:
    """What a tile must hold, from the entries or from full tiles one level down."""
    assert name.level is not None
    if name.level == 0:
        path = TileName(None, name.index, name.width).path
        yield from map(leaf_hash, decode_entries(_read(directory.joinpath(path), BUNDLE_BYTES_MAX)))
        return
    for position in range(name.width):
        below = TileName(name.level - 1, name.index * TILE_HASHES + position)
        data = _read(directory.joinpath(below.path), TILE_BYTES)
        if len(data) != TILE_BYTES:
            raise AuditFailed(f"{below.path} has {len(data)} bytes, not {TILE_BYTES}.")
        hashes = [data[start : start + HASH_BYTES] for start in range(0, TILE_BYTES, HASH_BYTES)]
        for _ in range(TILE_HEIGHT):
            hashes = [node_hash(*hashes[pair : pair + 2]) for pair in range(0, len(hashes), 2)]
        yield hashes[0]


def _read(path: Path, size_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(size_max + 1)
    except OSError as error:
        raise AuditFailed(f"{path} cannot be read: {error.strerror}.") from None
    if len(data) > size_max:
        raise AuditFailed(f"{path} is above {size_max} bytes.")
    return data


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, and on the disk before the checkpoint that needs it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
