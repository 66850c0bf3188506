"""What comes from a source against what is known of it: manifests, headers, whole files."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from node.engine.digests import CHUNK_BYTES
from node.engine.holdings import JOURNAL_NAME, MANIFEST_NAME
from node.engine.weights import INDEX_NAME, SINGLE_NAME, parse_header, read_header, read_weight_map
from node.models.errors import ModelFetchFailed, NotHeld, SourceLied
from node.models.partial import PartialModel
from node.models.sources import FileDigest
from protocol.errors import EngineError
from protocol.model import ModelManifest

__all__ = ["check_digests", "check_header", "check_manifest"]


def check_manifest(manifest: ModelManifest, wanted: bytes | None, name: str) -> None:
    """Raise SourceLied for another manifest than was asked for by hash, NotHeld by name."""
    if wanted is not None:
        if manifest.manifest_hash != wanted:
            raise SourceLied("Its manifest is not the one that was asked for.")
    elif manifest.name != name:
        raise NotHeld(f"Its manifest is that of '{manifest.name[:64]}'.")


def check_header(header: bytes, file: str, manifest: ModelManifest | None) -> None:
    """Raise SourceLied for a header that is none, or not the manifest's.

    The header gives bytes their dtype and shape, so a manifest has its hash. A manifest that is
    too old for that has at least every tensor's place.
    """
    try:
        tensors = {tensor.name: tensor for tensor in parse_header(file, header)}
    except EngineError as error:
        raise SourceLied(error.message) from error
    if manifest is None:
        return
    known = {entry.file: entry for entry in manifest.headers or ()}
    if file in known and known[file].sha256 != hashlib.sha256(header).digest():
        raise SourceLied(f"Its header of '{file}' is not the manifest's.")
    for entry in manifest.tensors:
        if entry.file == file:
            place = tensors.get(entry.name)
            if place is None or (place.start, place.end) != (entry.start, entry.end):
                raise SourceLied(f"Its '{file}' places '{entry.name[:64]}' elsewhere.")


def check_digests(storage: PartialModel, digests: Mapping[str, FileDigest]) -> list[str]:
    """Compare whole files with what a hub says of them; reads every weight file.

    Returns the weight files of which it says nothing. A file that is wrong is forgotten, so that
    it is fetched again. Raises ModelFetchFailed.
    """
    weight_map = read_weight_map(storage.directory)
    files = {SINGLE_NAME} if weight_map is None else set(weight_map.values())
    unvouched, wrong = [], []
    for path in sorted(storage.directory.iterdir()):
        if path.name in (JOURNAL_NAME, MANIFEST_NAME):  # ours, whatever a repository calls its own
            continue
        digest = digests.get(path.name)
        if path.name in files and (digest is None or _has_holes(storage, path.name)):
            unvouched.append(path.name)
        elif digest is not None and not _is_file(path, digest):
            _forget_file(storage, path)
            wrong.append(path.name)
    if wrong:
        raise ModelFetchFailed(f"Not what the hub says: {', '.join(wrong)}.", hint="Pull again.")
    return unvouched


def _has_holes(storage: PartialModel, file: str) -> bool:
    """Whether the file has tensors that the index gives to another, so that they are not here."""
    header = read_header(storage.directory, file)
    return any(tensor.name not in storage.fetched for tensor in parse_header(file, header))


def _forget_file(storage: PartialModel, path: Path) -> None:
    if path.suffix == ".safetensors":
        header = read_header(storage.directory, path.name)
        storage.forget(tensor.name for tensor in parse_header(path.name, header))
    elif path.name != INDEX_NAME:
        path.unlink()


def _is_file(path: Path, digest: FileDigest) -> bool:
    size = path.stat().st_size
    hasher: Any = hashlib.sha256()
    if digest.algorithm == "git-sha1":  # git's own id of a blob; no stronger than SHA-1 is
        hasher = hashlib.sha1(usedforsecurity=False)
        hasher.update(f"blob {size}\0".encode())
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            hasher.update(chunk)
    return size == digest.size_bytes and hasher.digest() == digest.digest
