"""Re-hash what is here of a model, and say what is wrong, missing or unvouched for."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from node.engine.holdings import (
    Holdings,
    missing_tensors,
    read_holdings,
    read_manifest,
    wrong_tensors,
)
from node.engine.store import build_manifest
from node.engine.weights import read_header
from node.models.checks import check_header
from node.models.errors import SourceLied
from node.models.listing import spans_of
from node.models.partial import PartialModel
from protocol.errors import EngineError
from protocol.limits import LAYERS_MAX
from protocol.model import ENDS, ModelManifest
from protocol.route import Span

__all__ = ["VerificationReport", "verify_model"]


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """`problems` is empty when every byte that is here is the manifest's."""

    manifest: ModelManifest
    is_vouched: bool
    """Whether a manifest lay with the weights; else it was made from them just now, so that
    nothing can be wrong, and the hash is what can be compared with others'."""
    tensors: int
    """Compared."""
    size_bytes: int
    missing: int
    """Tensors of the model that are not here."""
    spans: tuple[Span, ...]
    has_ends: bool
    problems: tuple[str, ...]


def verify_model(name: str, directory: Path) -> VerificationReport:
    """Read and compare all that is here; wrong tensors of a pull are forgotten, so that the next
    pull fetches them again. Blocks. Raises EngineError where nothing can be compared."""
    stored = read_manifest(directory)
    manifest = stored or build_manifest(directory, name)
    holdings = read_holdings(directory)
    wrong = list(wrong_tensors(manifest.tensors, holdings, directory)) if stored else []
    if wrong and holdings.journal is not None:
        _forget(directory, [tensor.name for tensor in wrong])
    bad = {tensor.name for tensor in wrong}
    problems = [f"tensor {t.name} in {t.file} is not the manifest's" for t in wrong]
    problems += _wrong_texts(manifest, directory) + _wrong_headers(manifest, holdings, directory)
    good = [t for t in manifest.tensors if holdings.has(t) and t.name not in bad]
    spans, has_ends = _extent(manifest, holdings, bad)
    return VerificationReport(
        manifest, stored is not None, len(good) + len(wrong), sum(t.size_bytes for t in good),
        len(missing_tensors(manifest, holdings, Span(0, LAYERS_MAX), True)), spans, has_ends,
        tuple(problems),
    )  # fmt: skip


def _extent(
    manifest: ModelManifest, holdings: Holdings, bad: set[str]
) -> tuple[tuple[Span, ...], bool]:
    need: dict[int, int] = {}
    have: dict[int, int] = {}
    for tensor in manifest.tensors:
        need[tensor.layer] = need.get(tensor.layer, 0) + 1
        if holdings.has(tensor) and tensor.name not in bad:
            have[tensor.layer] = have.get(tensor.layer, 0) + 1
    return spans_of(have, need), have.get(ENDS, 0) == need.get(ENDS, 0)


def _wrong_texts(manifest: ModelManifest, directory: Path) -> list[str]:
    problems = []
    if _digest(directory / "config.json") != manifest.config_sha256:
        problems.append("config.json is not the manifest's")
    # a span without its ends has no tokenizer
    if _digest(directory / "tokenizer.json") not in (None, manifest.tokenizer_sha256):
        problems.append("tokenizer.json is not the manifest's")
    return problems


def _wrong_headers(manifest: ModelManifest, holdings: Holdings, directory: Path) -> list[str]:
    """Of a pull's files; a shard's files were written anew, with headers of their own."""
    if holdings.journal is None:
        return []
    problems = []
    for file in sorted({place.file for place in holdings.places.values()}):
        try:
            check_header(read_header(directory, file), file, manifest)
        except (SourceLied, EngineError) as error:
            problems.append(f"the header of {file} is not the manifest's ({error.message})")
    return problems


def _forget(directory: Path, names: list[str]) -> None:
    storage = PartialModel.open(directory)
    try:
        storage.forget(names)
    finally:
        storage.close()


def _digest(path: Path) -> bytes | None:
    return hashlib.sha256(path.read_bytes()).digest() if path.is_file() else None
