"""What a node gives to others: items of the models it holds, and only what it has verified."""

import hashlib
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from node.engine.holdings import is_of_shard, read_holdings, read_journal
from node.engine.weights import StoredTensor, read_header, read_present
from protocol.errors import EngineError
from protocol.model import HeaderEntry, ModelManifest
from protocol.route import Span
from protocol.weights import ItemKind, WeightRequest

__all__ = ["Item", "SharedModel", "Shelf"]

SHARED_FILES = frozenset({
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja", "README.md", "LICENSE", "LICENSE.md",
})  # fmt: skip
"""The texts beside the weights; nothing else of a directory is given, whatever lies in it."""


@dataclass(frozen=True, slots=True)
class Item:
    """Bytes [start, end) of a file, or bytes in memory."""

    path: Path | None
    start: int
    end: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class SharedModel:
    """A model and the tensors of it (names) that are given: of_span's were compared with the
    manifest here."""

    manifest: ModelManifest
    directory: Path
    verified: Container[str]
    places: Mapping[str, StoredTensor]
    """Where each tensor lies here, by name."""
    headers: Mapping[str, HeaderEntry]
    """The manifest's, by file."""

    @classmethod
    def of_span(cls, manifest: ModelManifest, directory: Path, span: Span) -> Self:
        """What `verify_span` has just read, and what the journal says was verified as it came."""
        journal = read_journal(directory) or {}
        verified = {
            tensor.name
            for tensor in manifest.tensors
            if is_of_shard(tensor, span, False) or journal.get(tensor.name) == tensor.sha256
        }
        headers = {entry.file: entry for entry in manifest.headers or ()}
        return cls(manifest, directory, verified, read_present(directory), headers)

    @classmethod
    def of_directory(cls, manifest: ModelManifest, directory: Path) -> Self:
        """What lies in a directory, which whoever asks compares with the manifest: for machines of
        one house, that are not to read all of a model for one another first."""
        holdings = read_holdings(directory)
        held = {tensor.name for tensor in manifest.tensors if holdings.has(tensor)}
        headers = {entry.file: entry for entry in manifest.headers or ()}
        return cls(manifest, directory, held, holdings.places, headers)

    def find(self, kind: ItemKind, name: str) -> Item | None:
        """Where an item lies; None for what is not here or not verified. Blocks for a header."""
        match kind:
            case ItemKind.MANIFEST:
                data = self.manifest.encode()
                return Item(None, 0, len(data), data)
            case ItemKind.FILE if name in SHARED_FILES and (self.directory / name).is_file():
                path = self.directory / name
                return Item(path, 0, path.stat().st_size)
            case ItemKind.HEADER if name in self.headers:
                return self._find_header(name)
            case ItemKind.TENSOR if name in self.verified and name in self.places:
                place = self.places[name]
                return Item(self.directory / place.file, place.start, place.end)
        return None

    def _find_header(self, file: str) -> Item | None:
        """The manifest's header; a shard that was split off has files with headers of their own."""
        header = read_header(self.directory, file)
        if hashlib.sha256(header).digest() != self.headers[file].sha256:
            return None
        return Item(None, 0, len(header), header)


class Shelf:
    """The models a node shares. What is put here was verified by whoever puts it."""

    def __init__(self) -> None:
        self._models: dict[bytes, SharedModel] = {}

    def put(self, model: SharedModel) -> None:
        self._models[model.manifest.manifest_hash] = model

    def find(self, request: WeightRequest) -> Item | None:
        """The item of a request, or None; blocks while it reads headers."""
        model = self._model(request)
        if model is None:
            return None
        try:
            return model.find(request.kind, request.name)
        except (EngineError, OSError):  # removed or changed since: as if never held
            return None

    def _model(self, request: WeightRequest) -> SharedModel | None:
        if request.manifest_hash is not None:
            return self._models.get(request.manifest_hash)
        named = (m for m in self._models.values() if m.manifest.name == request.name)
        return next(named, None)
