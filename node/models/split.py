"""Cut a shard out of a model, as a directory to copy by hand to another machine.

The layout is the hub's: config, an index of these tensors alone, weight files of these tensors
alone, with the manifest of the whole model beside them; so whoever loads it can tell that the
bytes are that model's, and takes part in its routes.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from node.engine.errors import ShardMismatch, WeightsCorrupt
from node.engine.holdings import (
    JOURNAL_NAME,
    MANIFEST_NAME,
    is_of_shard,
    missing_tensors,
    pull_hint,
    read_holdings,
)
from node.engine.weights import INDEX_NAME, LENGTH_BYTES, StoredTensor, read_header, written_index
from node.errors import ConfigInvalid
from node.models.fetcher import require_room
from node.models.shelf import SHARED_FILES
from protocol.model import ModelManifest, TensorEntry
from protocol.route import Span

__all__ = ["SplitReport", "split_model"]

CHUNK_BYTES = 4 * 1024 * 1024
ALIGNMENT_BYTES = 8
"""safetensors pads its header so that the tensors begin aligned."""


@dataclass(frozen=True, slots=True)
class SplitReport:
    """What was written."""

    directory: Path
    files: int
    tensors: int
    size_bytes: int


def split_model(
    manifest: ModelManifest, directory: Path, span: Span, ends: bool, target: Path
) -> SplitReport:
    """Write the shard to `target`, which must be new or empty; each tensor is verified on the way.

    Blocks. Raises ConfigInvalid, ShardMismatch for what is not here, WeightsCorrupt, DiskFull.
    """
    if span.end > manifest.layers or not (len(span) or ends):
        raise ConfigInvalid(f"{manifest.name} has layers 0:{manifest.layers}, so no span {span}.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigInvalid(f"'{target}' is not empty.", hint="Name a new directory with --to.")
    holdings = read_holdings(directory)
    if missing := missing_tensors(manifest, holdings, span, ends):
        raise ShardMismatch(
            f"{len(missing)} tensors of {manifest.name} {span} are not here.",
            hint=pull_hint(manifest.name, span, ends),
        )
    wanted = [tensor for tensor in manifest.tensors if is_of_shard(tensor, span, ends)]
    target.mkdir(parents=True, exist_ok=True)
    size_bytes = sum(tensor.size_bytes for tensor in wanted)
    require_room(target, size_bytes)
    # Until the journal goes, the directory is a pull that has fetched nothing: never loadable.
    (target / JOURNAL_NAME).touch()
    by_file: dict[str, list[tuple[TensorEntry, StoredTensor]]] = {}
    for tensor in wanted:
        place = holdings.places[tensor.name]
        by_file.setdefault(place.file, []).append((tensor, place))
    for file, tensors in sorted(by_file.items()):
        _write_file(directory, target / file, tensors)
    index = {tensor.name: place.file for pairs in by_file.values() for tensor, place in pairs}
    (target / INDEX_NAME).write_bytes(written_index(index))
    _copy_texts(directory, target, ends)
    (target / MANIFEST_NAME).write_bytes(manifest.encode())
    (target / JOURNAL_NAME).unlink()
    return SplitReport(target, len(by_file), len(wanted), size_bytes)


def _write_file(
    directory: Path, path: Path, tensors: Sequence[tuple[TensorEntry, StoredTensor]]
) -> None:
    """A safetensors file of these tensors, in the order of the old one."""
    ordered = sorted(tensors, key=lambda pair: pair[1].start)
    source = ordered[0][1].file
    with (directory / source).open("rb") as old, path.open("wb") as new:
        new.write(_header(read_header(directory, source), [place for _, place in ordered]))
        for tensor, place in ordered:
            old.seek(place.start)
            digest = hashlib.sha256()
            for chunk in _chunks(old, place.end - place.start):
                digest.update(chunk)
                new.write(chunk)
            if digest.digest() != tensor.sha256:
                raise WeightsCorrupt(
                    f"Tensor '{tensor.name}' in '{source}' is not the manifest's.",
                    hint="Run: piecework models verify, then pull again.",
                )


def _header(old: bytes, places: Iterable[StoredTensor]) -> bytes:
    """dtype and shape as they were, places anew. Format: safetensors' own."""
    entries = json.loads(old[LENGTH_BYTES:])
    header: dict[str, object] = {}
    if "__metadata__" in entries:
        header["__metadata__"] = entries["__metadata__"]
    start = 0
    for place in places:
        end = start + place.end - place.start
        header[place.name] = {**entries[place.name], "data_offsets": [start, end]}
        start = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % ALIGNMENT_BYTES)
    return len(encoded).to_bytes(LENGTH_BYTES, "little") + encoded


def _chunks(stream: BinaryIO, left: int) -> Iterable[bytes]:
    while left:
        chunk = stream.read(min(CHUNK_BYTES, left))
        if not chunk:
            raise WeightsCorrupt("A weight file ended early while it was copied.")
        left -= len(chunk)
        yield chunk


def _copy_texts(directory: Path, target: Path, ends: bool) -> None:
    """config.json; with the ends the tokenizer and its neighbours; always licence and README."""
    for name in sorted(SHARED_FILES):
        is_for_all = name in ("config.json", "README.md", "LICENSE", "LICENSE.md")
        if (is_for_all or ends) and (directory / name).is_file():
            shutil.copyfile(directory / name, target / name)
