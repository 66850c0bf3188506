"""What lies in a model directory: which weight files, which tensors, at which bytes.

Reads the Hugging Face layout: an index that maps tensors to safetensors files, or the one file
`model.safetensors`. The safetensors header (an 8-byte little-endian length, then JSON) is parsed
here, with limits, because these files come from strangers and because neither torch nor numpy has
to be awake for it. Format: https://github.com/huggingface/safetensors#format.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.engine.errors import ModelNotFound, ModelUnsupported, ShardMismatch
from protocol.limits import LAYERS_MAX
from protocol.model import ENDS

__all__ = [
    "CONFIG_BYTES_MAX",
    "FILE_BYTES_MAX",
    "HEADER_BYTES_MAX",
    "INDEX_BYTES_MAX",
    "INDEX_NAME",
    "LENGTH_BYTES",
    "SINGLE_NAME",
    "StoredTensor",
    "header_bytes",
    "layer_of",
    "parse_config",
    "parse_header",
    "parse_weight_map",
    "read_config",
    "read_header",
    "read_present",
    "read_tensors",
    "read_weight_map",
    "written_index",
]

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

CONFIG_BYTES_MAX = 4 * 1024 * 1024
"""A config.json is a few KiB; quantization settings can make it some hundred."""

INDEX_BYTES_MAX = 64 * 1024 * 1024
"""DeepSeek-V3's index of 90 000 tensors is 9 MB."""

HEADER_BYTES_MAX = 100 * 1024 * 1024
"""The limit the safetensors library itself keeps."""

FILE_BYTES_MAX = 2**43
"""8 TiB: a weight file is usually 5 GB, and the largest published models are under 2 TB whole."""

LENGTH_BYTES = 8
"""What a safetensors file begins with: the length of its header."""

_LAYER = re.compile(r"(?:^|\.)layers\.(\d{1,4})\.")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a safetensors file; its bytes are [start, end) of the file."""

    name: str
    file: str
    dtype: str
    """As safetensors spells it: `F32`, `BF16`, `F16` …"""
    start: int
    end: int


def layer_of(name: str) -> int:
    """The layer a tensor belongs to by its name, or ENDS. Raises ModelUnsupported above 1024."""
    match = _LAYER.search(name)
    if match is None:
        return ENDS
    if int(match[1]) >= LAYERS_MAX:
        raise ModelUnsupported(f"'{name[:64]}' is above the limit of {LAYERS_MAX} layers.")
    return int(match[1])


def read_config(directory: Path) -> dict[str, Any]:
    """The model's config.json as a map. Raises ModelNotFound or ModelUnsupported."""
    path = directory / "config.json"
    if not path.is_file():
        raise ModelNotFound(f"'{directory}' holds no config.json.")
    return parse_config(_read_bounded(path, CONFIG_BYTES_MAX))


def parse_config(data: bytes | None) -> dict[str, Any]:
    """A config.json as a map; None stands for one that is too large. Raises ModelUnsupported."""
    config = None if data is None else _parse_map(data)
    if config is None:
        raise ModelUnsupported(
            f"The model's config.json is not a map in JSON of at most {CONFIG_BYTES_MAX} bytes."
        )
    return config


def read_weight_map(directory: Path) -> dict[str, str] | None:
    """Tensor to file name as the index says, or None where the model is one file.

    The files themselves need not be here: a machine may hold only its span's. Raises
    ModelNotFound where there are no weights, ShardMismatch for an index that is not plain.
    """
    path = directory / INDEX_NAME
    if not path.is_file():
        if not (directory / SINGLE_NAME).is_file():
            raise ModelNotFound(f"'{directory}' holds neither {SINGLE_NAME} nor {INDEX_NAME}.")
        return None
    return parse_weight_map(_read_bounded(path, INDEX_BYTES_MAX))


def parse_weight_map(data: bytes | None) -> dict[str, str]:
    """An index's map of tensor to file; None stands for one that is too large.

    Raises ShardMismatch when it is no index, or leads out of the directory.
    """
    weight_map = ((_parse_map(data) if data is not None else None) or {}).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ShardMismatch(f"{INDEX_NAME} is not an index of weights.")
    for file in set(map(str, weight_map.values())):
        if Path(file).name != file or file.startswith(".") or not file.endswith(".safetensors"):
            raise ShardMismatch(f"The index names '{file[:64]}', which is no plain weight file.")
    return weight_map


def written_index(weight_map: Mapping[str, str]) -> bytes:
    """The index file that says where each tensor lies: the same bytes for the same map."""
    content = {"metadata": {}, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(content, indent=1) + "\n").encode()


def read_tensors(directory: Path) -> list[StoredTensor]:
    """Every tensor of the whole model, by name. Raises ModelNotFound or ShardMismatch."""
    weight_map = read_weight_map(directory)
    files = {SINGLE_NAME} if weight_map is None else set(weight_map.values())
    found = _read_headers(directory, files, weight_map)
    if weight_map is not None and (missing := sorted(set(weight_map) - set(found))):
        raise ShardMismatch(f"{len(missing)} tensors are missing, '{missing[0][:64]}' among them.")
    return [found[name] for name in sorted(found)]


def read_present(directory: Path) -> dict[str, StoredTensor]:
    """The tensors that the weight files which are here place, by name; other files may be absent.

    Their bytes may still be a hole: node/engine/holdings.py knows. Raises as read_tensors.
    """
    weight_map = read_weight_map(directory)
    files = {SINGLE_NAME} if weight_map is None else set(weight_map.values())
    here = {file for file in files if (directory / file).is_file()}
    return _read_headers(directory, here, weight_map)


def _read_headers(
    directory: Path, files: Iterable[str], weight_map: Mapping[str, str] | None
) -> dict[str, StoredTensor]:
    return {
        tensor.name: tensor
        for file in sorted(files)
        for tensor in parse_header(
            file, read_header(directory, file), (directory / file).stat().st_size
        )
        # A file may hold tensors that the index gives to another; the index decides.
        if weight_map is None or weight_map.get(tensor.name) == file
    }


def read_header(directory: Path, file: str) -> bytes:
    """A weight file's header with its length before it. Raises ShardMismatch."""
    path = directory / file
    if not path.is_file():
        raise ShardMismatch(f"The weight file '{file}' is missing in '{directory}'.")
    with path.open("rb") as stream:
        prefix = stream.read(LENGTH_BYTES)
        size = header_bytes(file, prefix, path.stat().st_size)
        return prefix + stream.read(size - LENGTH_BYTES)


def header_bytes(file: str, prefix: bytes, file_size: int | None = None) -> int:
    """The size of a header with its length, from a file's first eight bytes.

    `file_size` None: not known yet. Raises ShardMismatch when no header can be that long.
    """
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    most = HEADER_BYTES_MAX if file_size is None else min(HEADER_BYTES_MAX, file_size - 8)
    if len(prefix) < LENGTH_BYTES or not 0 < length <= most:
        raise ShardMismatch(f"'{file}' is not a safetensors file: its header has no length.")
    return LENGTH_BYTES + length


def parse_header(file: str, header: bytes, file_size: int | None = None) -> list[StoredTensor]:
    """The tensors that a header (with its length) places.

    `file_size` None: the file is not here, and ends where its last tensor does. Raises
    ShardMismatch.
    """
    entries = _parse_map(header[LENGTH_BYTES:])
    if entries is None:
        raise ShardMismatch(f"'{file}' is not a safetensors file: its header is no map.")
    return [
        _stored_tensor(
            name, file, entry, len(header), FILE_BYTES_MAX if file_size is None else file_size
        )
        for name, entry in entries.items()
        if name != "__metadata__"
    ]


def _stored_tensor(
    name: str, file: str, entry: object, data_start: int, file_size: int
) -> StoredTensor:
    match entry:
        case {"dtype": str(dtype), "data_offsets": [int(start), int(end)]} if (
            0 <= start <= end <= file_size - data_start
        ):
            return StoredTensor(name, file, dtype, data_start + start, data_start + end)
    raise ShardMismatch(f"The header of '{file}' does not place '{name[:64]}' inside the file.")


def _read_bounded(path: Path, size_max: int) -> bytes | None:
    return None if path.stat().st_size > size_max else path.read_bytes()


def _parse_map(data: bytes) -> dict[str, Any] | None:
    try:
        value: Mapping[str, Any] | object = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
