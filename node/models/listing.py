"""What models are on this machine, how much of each, and whether it may be sold."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.engine.holdings import Holdings, read_holdings, read_manifest
from node.engine.store import DTYPE_NAMES, is_resale_allowed, read_licence
from node.engine.weights import INDEX_NAME, StoredTensor, layer_of, read_config, read_weight_map
from protocol.errors import PieceworkError
from protocol.model import ENDS, ModelManifest
from protocol.route import Span

__all__ = ["ModelSummary", "spans_of", "summarize"]


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One line of `piecework models ls`. Nothing is hashed for it."""

    name: str
    directory: Path
    family: str
    layers: int
    spans: tuple[Span, ...]
    """The layers whose every tensor is here, merged."""
    has_ends: bool
    size_bytes: int
    """What it takes on the disk; a file's holes take nothing."""
    dtype: str
    licence: str
    resale_allowed: bool
    manifest_hash: bytes | None
    """None: no manifest lies with it; a first load makes one."""
    fault: str = ""
    """Why it cannot be read; the other fields are then empty."""

    @property
    def is_whole(self) -> bool:
        return self.has_ends and self.spans == (Span(0, self.layers),)


def summarize(name: str, directory: Path) -> ModelSummary:
    """What is known of a model without hashing it; a broken one is a line with its fault."""
    size_bytes = disk_bytes(directory)
    try:
        manifest = read_manifest(directory)
        config = read_config(directory) if (directory / "config.json").is_file() else {}
        holdings = _holdings(directory)
        if manifest is None:
            return _from_files(name, directory, config, holdings, size_bytes)
        return _from_manifest(name, directory, manifest, holdings, size_bytes)
    except (PieceworkError, OSError) as error:
        fault = getattr(error, "message", str(error))
        return ModelSummary(
            name, directory, "", 0, (), False, size_bytes, "", "", False, None, fault
        )


def spans_of(have: Mapping[int, int], need: Mapping[int, int]) -> tuple[Span, ...]:
    """Layers with as many tensors as they need, merged into spans. Keys: layers."""
    spans: list[Span] = []
    for layer in sorted(layer for layer in need if layer != ENDS):
        if have.get(layer, 0) < need[layer]:
            continue
        if spans and spans[-1].end == layer:
            spans[-1] = Span(spans[-1].start, layer + 1)
        else:
            spans.append(Span(layer, layer + 1))
    return tuple(spans)


def disk_bytes(directory: Path) -> int:
    """Allocated bytes of a directory's files, in the disk's own blocks of 512."""
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir() if path.is_file())


def _from_manifest(
    name: str, directory: Path, manifest: ModelManifest, holdings: Holdings, size_bytes: int
) -> ModelSummary:
    need = Counter(tensor.layer for tensor in manifest.tensors)
    have = Counter(tensor.layer for tensor in manifest.tensors if holdings.has(tensor))
    return ModelSummary(
        name, directory, manifest.family, manifest.layers, spans_of(have, need),
        0 < need[ENDS] == have[ENDS], size_bytes, manifest.dtype, manifest.licence,
        manifest.resale_allowed, manifest.manifest_hash,
    )  # fmt: skip


def _from_files(
    name: str, directory: Path, config: Mapping[str, Any], holdings: Holdings, size_bytes: int
) -> ModelSummary:
    """By the index (or the one file's header) and the files that are here."""
    here = [t for t in holdings.places.values() if _is_written(t, holdings)]
    is_begun = holdings.places or (directory / INDEX_NAME).is_file()
    wanted = (read_weight_map(directory) if is_begun else None) or holdings.places
    need = Counter(layer_of(tensor) for tensor in wanted)
    have = Counter(layer_of(tensor.name) for tensor in here)
    layers = config.get("num_hidden_layers")
    licence = read_licence(directory)
    return ModelSummary(
        name, directory, str(config.get("model_type", "")),
        layers if isinstance(layers, int) else 0,
        spans_of(have, need), 0 < need[ENDS] == have[ENDS], size_bytes, _dtype(here), licence,
        is_resale_allowed(licence), None,
    )  # fmt: skip


def _holdings(directory: Path) -> Holdings:
    """A pull that was killed before its first weight file holds nothing yet."""
    if any(directory.glob("*.safetensors")):
        return read_holdings(directory)
    return Holdings({}, {})


def _is_written(tensor: StoredTensor, holdings: Holdings) -> bool:
    return holdings.journal is None or tensor.name in holdings.journal


def _dtype(tensors: Sequence[StoredTensor]) -> str:
    sizes = Counter[str]()
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.end - tensor.start
    ((dtype, _),) = sizes.most_common(1) or [("", 0)]
    return DTYPE_NAMES.get(dtype, dtype.lower())
