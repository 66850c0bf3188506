"""Models on this machine: finding them by name, and naming their exact weights.

A model is a directory in the Hugging Face layout. Its manifest lists every tensor with file, range
and SHA-256; reading all weights for it takes minutes for a large model, so manifests are kept in a
cache directory under a key made of the files' names, sizes and times.
"""

import hashlib
import json
import logging
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from node.engine.errors import ModelNotFound, ModelUnsupported, WeightsCorrupt
from node.engine.weights import INDEX_NAME, StoredTensor, layer_of, read_config, read_tensors
from protocol.errors import RemoteProtocolError
from protocol.model import ENDS, ModelManifest, TensorEntry
from protocol.route import Span

__all__ = ["TINY_MODEL", "build_manifest", "layer_bytes", "resolve_model", "verify_span"]

TINY_MODEL = "piecework/tiny"
"""The small trained model that comes with the package."""

UNKNOWN_LICENCE = "unknown"

_ASSETS = Path(__file__).parents[1] / "assets"
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_CHUNK_BYTES = 4 * 1024 * 1024
_LISTED_MAX = 8
_FRONT_MATTER_BYTES_MAX = 64 * 1024
_CACHE_VERSION = 1
_DTYPE_NAMES = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}

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
    if models_directory is not None and _REFERENCE.fullmatch(reference):
        directory = models_directory / reference
        if (directory / "config.json").is_file():
            return directory
    here = [TINY_MODEL, *_list_models(models_directory)]
    more = f" and {len(here) - _LISTED_MAX} more" if len(here) > _LISTED_MAX else ""
    raise ModelNotFound(
        f"There is no model '{reference[:128]}' on this machine.",
        hint=f"Here are {', '.join(here[:_LISTED_MAX])}{more}; or give a directory's path.",
    )


def build_manifest(
    directory: Path, name: str | None = None, *, cache_directory: Path | None = None
) -> ModelManifest:
    """The manifest of a whole model; reads every weight unless the cache knows the files.

    `name` is part of the manifest and so of its hash; the directory's own name where left out.
    Raises ModelNotFound, ModelUnsupported or ShardMismatch.
    """
    name = name or directory.resolve().name
    tensors = read_tensors(directory)
    cached = None
    if cache_directory is not None:
        cached = cache_directory / f"{_cache_key(directory, name, tensors)}.manifest"
        if (manifest := _read_cached(cached)) is not None:
            return manifest
    manifest = _hash_model(directory, name, tensors)
    if cached is not None:
        _write_atomically(cached, manifest.encode())
    return manifest


def verify_span(manifest: ModelManifest, directory: Path, span: Span, ends: bool) -> None:
    """Read a shard's tensors and compare them with the manifest, and the files that go with them.

    `ends` adds embedding, final norm, LM head and the tokenizer. Raises WeightsCorrupt, which
    names the tensor.
    """
    _verify_file(directory / "config.json", manifest.config_sha256)
    if ends:
        _verify_file(directory / "tokenizer.json", manifest.tokenizer_sha256)
    for tensor in manifest.tensors:
        if span.start <= tensor.layer < span.end or (ends and tensor.layer == ENDS):
            digest = _hash_range(directory / tensor.file, tensor.start, tensor.end)
            if digest != tensor.sha256:
                raise WeightsCorrupt(
                    f"Tensor '{tensor.name}' in '{tensor.file}' is not the manifest's.",
                    hint="Fetch the file again.",
                )


def layer_bytes(manifest: ModelManifest) -> tuple[int, ...]:
    """Stored bytes of each layer, from layer 0."""
    sizes = Counter[int]()
    for tensor in manifest.tensors:
        sizes[tensor.layer] += tensor.size_bytes
    return tuple(sizes[layer] for layer in range(manifest.layers))


def _list_models(models_directory: Path | None) -> list[str]:
    if models_directory is None or not models_directory.is_dir():
        return []
    configs = models_directory.glob("*/*/config.json")
    return sorted(f"{path.parent.parent.name}/{path.parent.name}" for path in configs)


def _hash_model(directory: Path, name: str, tensors: Iterable[StoredTensor]) -> ModelManifest:
    config = read_config(directory)
    licence = _read_licence(directory)
    entries = []
    dtype_bytes = Counter[str]()
    for tensor in tensors:
        digest = _hash_range(directory / tensor.file, tensor.start, tensor.end)
        if digest is None:
            raise WeightsCorrupt(f"'{tensor.file}' changed while it was read.")
        place = (tensor.file, tensor.start, tensor.end)
        entries.append(TensorEntry(tensor.name, layer_of(tensor.name), *place, digest))
        dtype_bytes[tensor.dtype] += tensor.end - tensor.start
    ((stored_dtype, _),) = dtype_bytes.most_common(1) or [("none", 0)]
    return ModelManifest(
        name=name,
        family=_text(config, "model_type"),
        layers=_count(config, "num_hidden_layers"),
        hidden_size=_count(config, "hidden_size"),
        vocabulary_size=_count(config, "vocab_size"),
        context_tokens=_count(config, "max_position_embeddings"),
        dtype=_DTYPE_NAMES.get(stored_dtype, stored_dtype.lower()),
        licence=licence,
        resale_allowed=_RESALE_ALLOWED.fullmatch(licence) is not None,
        config_sha256=_hash_file(directory / "config.json"),
        tokenizer_sha256=_hash_file(directory / "tokenizer.json"),
        tensors=tuple(entries),
    )


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


def _read_licence(directory: Path) -> str:
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


def _hash_file(path: Path) -> bytes:
    if not path.is_file():
        raise ModelNotFound(f"'{path.parent}' holds no {path.name}.")
    digest = _hash_range(path, 0, path.stat().st_size)
    if digest is None:
        raise WeightsCorrupt(f"'{path}' changed while it was read.")
    return digest


def _hash_range(path: Path, start: int, end: int) -> bytes | None:
    """SHA-256 of a file's bytes [start, end), or None where the file has not so many."""
    digest = hashlib.sha256()
    left = end - start
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, max(left, 1))))
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


def _verify_file(path: Path, sha256: bytes) -> None:
    if not path.is_file() or _hash_range(path, 0, path.stat().st_size) != sha256:
        raise WeightsCorrupt(f"'{path.name}' is not the manifest's.", hint="Fetch it again.")


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
