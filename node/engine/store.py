"""Models on this machine: finding them by name, and naming their exact weights.

A model is a directory in the Hugging Face layout. Its manifest lists every tensor with file, range
and SHA-256; reading all weights for it takes minutes for a large model, so manifests are kept in a
cache directory under a key made of the files' names, sizes and times. A pulled part or a shard
carries its manifest with it (node/engine/holdings.py).
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from node.engine.digests import hash_file, hash_range
from node.engine.errors import ModelNotFound, ModelUnsupported, ShardMismatch, WeightsCorrupt
from node.engine.holdings import read_journal, read_manifest
from node.engine.weights import (
    INDEX_NAME,
    StoredTensor,
    layer_of,
    read_config,
    read_header,
    read_tensors,
)
from protocol.errors import RemoteProtocolError
from protocol.model import HeaderEntry, ModelManifest, TensorEntry

__all__ = [
    "DTYPE_NAMES",
    "MODEL_NAME",
    "TINY_MODEL",
    "build_manifest",
    "is_resale_allowed",
    "list_models",
    "load_manifest",
    "make_manifest",
    "read_licence",
    "resolve_model",
]

TINY_MODEL = "piecework/tiny"
"""The small trained model that comes with the package."""

UNKNOWN_LICENCE = "unknown"

_ASSETS = Path(__file__).parents[1] / "assets"
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
"""`org/name`, as a hub spells it; no part can lead out of the models directory."""

_LISTED_MAX = 8
_FRONT_MATTER_BYTES_MAX = 64 * 1024
_CACHE_VERSION = 2
DTYPE_NAMES = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}

_RESALE_ALLOWED = re.compile(
    r"apache-2\.0|mit|isc|bsd(-[0-9]-clause(-clear)?)?|llama3(\.[0-9])?|cc0-1\.0|cc-by-[0-9]\.[0-9]"
)
"""Licences known to allow selling the model's work. Every other one, known or not, does not: to
refuse a model that might be sold is a nuisance, to sell one that may not be is a breach."""

_log = logging.getLogger(__name__)


def resolve_model(reference: str, *, models_directory: Path | None) -> Path:
    """The directory of a model named by path, by `org/name`, or as the packaged `piecework/tiny`.

    Raises ModelNotFound, which lists what `models_directory` holds.
    """
    if (Path(reference) / "config.json").is_file():
        return Path(reference)
    if reference == TINY_MODEL and (_ASSETS / "piecework-tiny" / "config.json").is_file():
        return _ASSETS / "piecework-tiny"
    if models_directory is not None and MODEL_NAME.fullmatch(reference):
        directory = models_directory / reference
        if (directory / "config.json").is_file():
            return directory
    here = [TINY_MODEL, *list_models(models_directory)]
    more = f" and {len(here) - _LISTED_MAX} more" if len(here) > _LISTED_MAX else ""
    raise ModelNotFound(
        f"There is no model '{reference[:128]}' on this machine.",
        hint=f"Here are {', '.join(here[:_LISTED_MAX])}{more}; or give a directory's path.",
    )


def load_manifest(
    directory: Path, name: str, *, cache_directory: Path | None = None
) -> ModelManifest:
    """The manifest that lies in the directory, else one built from the whole model."""
    return read_manifest(directory) or build_manifest(
        directory, name, cache_directory=cache_directory
    )


def build_manifest(
    directory: Path, name: str | None = None, *, cache_directory: Path | None = None
) -> ModelManifest:
    """The manifest of a whole model; reads every weight unless the cache knows the files.

    `name` is part of the manifest and so of its hash; the directory's own name where left out.
    Raises ModelNotFound, ModelUnsupported or ShardMismatch, the last also for a pulled part: the
    holes in its files have no hash.
    """
    name = name or directory.resolve().name
    tensors = _whole_tensors(directory, name)
    cached = None
    if cache_directory is not None:
        cached = cache_directory / f"{_cache_key(directory, name, tensors)}.manifest"
        if (manifest := _read_cached(cached)) is not None:
            return manifest
    manifest = make_manifest(directory, name, tensors, lambda tensor: _digest(directory, tensor))
    if cached is not None:
        _write_atomically(cached, manifest.encode())
    return manifest


def list_models(models_directory: Path | None) -> list[str]:
    """The names of the models in a models directory, whole or in part."""
    if models_directory is None or not models_directory.is_dir():
        return []
    configs = models_directory.glob("*/*/config.json")
    names = {f"{path.parent.parent.name}/{path.parent.name}" for path in configs}
    return sorted(name for name in names if MODEL_NAME.fullmatch(name))


def _whole_tensors(directory: Path, name: str) -> list[StoredTensor]:
    journal = read_journal(directory)
    if journal is None:
        return read_tensors(directory)
    with contextlib.suppress(ModelNotFound, ShardMismatch):
        tensors = read_tensors(directory)
        if all(tensor.name in journal for tensor in tensors):
            return tensors
    raise ShardMismatch(
        f"Only a part of {name} is here, and no manifest says what it should be.",
        hint=f"Fetch it whole: piecework models pull {name}",
    )


def make_manifest(
    directory: Path,
    name: str,
    tensors: Iterable[StoredTensor],
    digest_of: Callable[[StoredTensor], bytes],
) -> ModelManifest:
    """A manifest from a whole model's files, with each tensor's SHA-256 as `digest_of` knows it."""
    config = read_config(directory)
    licence = read_licence(directory)
    entries = []
    dtype_bytes = Counter[str]()
    for tensor in tensors:
        place = (tensor.file, tensor.start, tensor.end)
        entries.append(TensorEntry(tensor.name, layer_of(tensor.name), *place, digest_of(tensor)))
        dtype_bytes[tensor.dtype] += tensor.end - tensor.start
    ((stored_dtype, _),) = dtype_bytes.most_common(1) or [("none", 0)]
    return ModelManifest(
        name=name,
        family=_text(config, "model_type"),
        layers=_count(config, "num_hidden_layers"),
        hidden_size=_count(config, "hidden_size"),
        vocabulary_size=_count(config, "vocab_size"),
        context_tokens=_count(config, "max_position_embeddings"),
        dtype=DTYPE_NAMES.get(stored_dtype, stored_dtype.lower()),
        licence=licence,
        resale_allowed=is_resale_allowed(licence),
        config_sha256=hash_file(directory / "config.json"),
        tokenizer_sha256=hash_file(directory / "tokenizer.json"),
        tensors=tuple(entries),
        headers=tuple(_headers(directory, {entry.file for entry in entries})),
    )


def _headers(directory: Path, files: Iterable[str]) -> Iterable[HeaderEntry]:
    for file in sorted(files):
        header = read_header(directory, file)
        yield HeaderEntry(file, len(header), hashlib.sha256(header).digest())


def _digest(directory: Path, tensor: StoredTensor) -> bytes:
    digest = hash_range(directory / tensor.file, tensor.start, tensor.end)
    if digest is None:
        raise WeightsCorrupt(f"'{tensor.file}' changed while it was read.")
    return digest


def _count(config: dict[str, object], field: str) -> int:
    value = config.get(field)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ModelUnsupported(f"The model's config.json has no number '{field}'.")
    return value


def _text(config: dict[str, object], field: str) -> str:
    value = config.get(field)
    if not isinstance(value, str):
        raise ModelUnsupported(f"The model's config.json has no text '{field}'.")
    return value


def is_resale_allowed(licence: str) -> bool:
    """Whether a model of that licence may be sold in a pool."""
    return _RESALE_ALLOWED.fullmatch(licence) is not None


def read_licence(directory: Path) -> str:
    """The `license:` line of a front matter (between `---` lines), in lower case."""
    for name in ("README.md", "LICENSE", "LICENSE.md"):
        path = directory / name
        if not path.is_file():
            continue
        with path.open("rb") as stream:
            text = stream.read(_FRONT_MATTER_BYTES_MAX).decode("utf-8", errors="replace")
        front = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(?:\n|$)", text, flags=re.DOTALL)
        found = front and re.search(r"^license:[ \t]*([^\s#]{1,64})", front[1], flags=re.MULTILINE)
        if found:
            return found[1].strip("\"'").lower() or UNKNOWN_LICENCE
    return UNKNOWN_LICENCE


def _cache_key(directory: Path, name: str, tensors: Iterable[StoredTensor]) -> str:
    """A digest over what tells that the model's files are the same as when they were hashed."""
    others = ("config.json", "tokenizer.json", INDEX_NAME, "README.md", "LICENSE", "LICENSE.md")
    files = sorted({tensor.file for tensor in tensors} | set(others))
    state: list[object] = [_CACHE_VERSION, name, str(directory.resolve())]
    for file in files:
        path = directory / file
        if path.is_file():
            status = path.stat()
            state.append([file, status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _read_cached(path: Path) -> ModelManifest | None:
    if not path.is_file():
        return None
    try:
        return ModelManifest.decode(path.read_bytes())
    except RemoteProtocolError as error:
        _log.warning("The cached manifest %s is broken and is made again: %s", path.name, error)
        return None


def _write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".manifest-")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
