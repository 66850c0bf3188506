"""What lies in a model directory: which weight files, which tensors, at which bytes.

Reads the Hugging Face layout: an index that maps tensors to safetensors files, or the one file
`model.safetensors`. The safetensors header (an 8-byte little-endian length, then JSON) is parsed
here, with limits, because these files come from strangers and because neither torch nor numpy has
to be awake for it. Format: https://github.com/huggingface/safetensors#format.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.engine.errors import ModelNotFound, ModelUnsupported, ShardMismatch
from protocol.limits import LAYERS_MAX
from protocol.model import ENDS

__all__ = [
    "INDEX_NAME",
    "SINGLE_NAME",
    "StoredTensor",
    "layer_of",
    "read_config",
    "read_tensors",
    "read_weight_map",
]

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

CONFIG_BYTES_MAX = 4 * 1024 * 1024
"""A config.json is a few KiB; quantization settings can make it some hundred."""

INDEX_BYTES_MAX = 64 * 1024 * 1024
"""DeepSeek-V3's index of 90 000 tensors is 9 MB."""

HEADER_BYTES_MAX = 100 * 1024 * 1024
"""The limit the safetensors library itself keeps."""

LENGTH_BYTES = 8

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
    config = _read_json(path, CONFIG_BYTES_MAX)
    if config is None:
        raise ModelUnsupported(
            f"'{path}' is not a map in JSON of at most {CONFIG_BYTES_MAX} bytes."
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
    weight_map = (_read_json(path, INDEX_BYTES_MAX) or {}).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ShardMismatch(f"'{path}' is not an index of weights.")
    for file in set(map(str, weight_map.values())):
        if Path(file).name != file or file.startswith(".") or not file.endswith(".safetensors"):
            raise ShardMismatch(f"The index names '{file[:64]}', which is no plain weight file.")
    return weight_map


def read_tensors(directory: Path) -> list[StoredTensor]:
    """Every tensor of the whole model, by name. Raises ModelNotFound or ShardMismatch."""
    weight_map = read_weight_map(directory)
    files = {SINGLE_NAME} if weight_map is None else set(weight_map.values())
    found = {
        tensor.name: tensor
        for file in sorted(files)
        for tensor in _read_header(directory, file)
        # A file may hold tensors that the index gives to another; the index decides.
        if weight_map is None or weight_map.get(tensor.name) == file
    }
    if weight_map is not None and (missing := sorted(set(weight_map) - set(found))):
        raise ShardMismatch(f"{len(missing)} tensors are missing, '{missing[0][:64]}' among them.")
    return [found[name] for name in sorted(found)]


def _read_header(directory: Path, file: str) -> list[StoredTensor]:
    path = directory / file
    if not path.is_file():
        raise ShardMismatch(f"The weight file '{file}' is missing in '{directory}'.")
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
        if not 0 < length <= min(HEADER_BYTES_MAX, size - LENGTH_BYTES):
            raise ShardMismatch(f"'{file}' is not a safetensors file: its header has no length.")
        header = _parse_map(stream.read(length))
    if header is None:
        raise ShardMismatch(f"'{file}' is not a safetensors file: its header is no map.")
    data_start = LENGTH_BYTES + length
    return [
        _stored_tensor(name, file, entry, data_start, size)
        for name, entry in header.items()
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


def _read_json(path: Path, size_max: int) -> dict[str, Any] | None:
    return None if path.stat().st_size > size_max else _parse_map(path.read_bytes())


def _parse_map(data: bytes) -> dict[str, Any] | None:
    try:
        value: Mapping[str, Any] | object = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
