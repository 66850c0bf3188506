"""A GGUF file: its metadata and where its tensors lie, read with limits.

Layout (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): magic, version, counts,
key-value pairs, one entry a tensor, then the tensors' bytes at aligned offsets, little-endian. The
header is parsed here and not by the `gguf` package: these files come from strangers, and its reader
trusts every count; the arithmetic of the quantizations is the package's.
"""

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from node.engine.errors import ModelUnsupported, ShardMismatch
from protocol.limits import HIDDEN_SIZE_MAX, VOCABULARY_MAX

__all__ = ["GGUFFile", "GGUFTensor", "read_gguf"]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
HEADER_BYTES_MAX = 256 * 2**20
"""Metadata with a vocabulary of 262 144 tokens and its merges is about 20 MB."""
PAIRS_MAX = 4096
TENSORS_MAX = 100_000
"""DeepSeek-V3 has about 1 100 in this format, where experts are stacked."""
DIMENSIONS_MAX = 4
ARRAY_MAX = 2 * VOCABULARY_MAX
ALIGNMENT_MAX = 65_536
FP32 = 0
"""ggml's number for plain floats."""
DEFAULT_ALIGNMENT = 32
ROWS_AT_ONCE_BYTES = 64 * 2**20
"""fp32 rows held while a tensor is converted."""

_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9

Value = int | float | bool | str | list["Value"]


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """One tensor: torch's shape (outermost first), ggml's type, its bytes in the file."""

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int
    end: int

    @property
    def is_fp32(self) -> bool:
        return self.kind == FP32


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """What a file holds. `metadata` as written; tensors by their GGUF names."""

    path: Path
    metadata: Mapping[str, Value]
    tensors: Mapping[str, GGUFTensor]

    def rows(self, tensor: GGUFTensor) -> Iterator[npt.NDArray[np.float32]]:
        """A tensor's rows dequantized, some at a time: (rows, columns) float32."""
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        columns = tensor.shape[-1]
        total = max(1, int(np.prod(tensor.shape[:-1], dtype=np.int64)))
        row_bytes = (tensor.end - tensor.start) // total
        at_once = max(1, ROWS_AT_ONCE_BYTES // (4 * columns))
        kind = GGMLQuantizationType(tensor.kind)
        with self.path.open("rb") as stream:
            stream.seek(tensor.start)
            for first in range(0, total, at_once):
                count = min(at_once, total - first)
                data = stream.read(count * row_bytes)
                if len(data) != count * row_bytes:
                    raise ShardMismatch(f"'{self.path.name}' ends inside '{tensor.name[:64]}'.")
                packed = np.frombuffer(data, np.uint8).reshape(count, row_bytes)
                yield np.asarray(dequantize(_typed(packed, kind), kind), np.float32)


def read_gguf(path: Path) -> GGUFFile:
    """Read a file's header. Raises ModelUnsupported for what is no whole, plain GGUF file."""
    try:
        with path.open("rb") as stream:
            reader = _Reader(stream, os.fstat(stream.fileno()).st_size)
            return _read(path, reader)
    except (struct.error, UnicodeDecodeError, ValueError, EOFError) as error:
        raise ModelUnsupported(f"'{path.name}' is not a GGUF file we can read: {error}") from error
    except OSError as error:
        raise ModelUnsupported(f"'{path.name}' cannot be read: {error}") from error


class _Reader:
    """Bounded reads of the header."""

    def __init__(self, stream: BinaryIO, size_bytes: int) -> None:
        self._stream = stream
        self.size_bytes = size_bytes
        self._left = min(size_bytes, HEADER_BYTES_MAX)

    @property
    def position(self) -> int:
        return self._stream.tell()

    def take(self, count: int) -> bytes:
        if count > self._left:
            raise EOFError("its header does not end where it should")
        self._left -= count
        return self._stream.read(count)

    def number(self, code: str) -> int:
        (value,) = struct.unpack("<" + code, self.take(struct.calcsize(code)))
        return int(value)

    def count(self, maximum: int, what: str) -> int:
        value = self.number("Q")
        if value > maximum:
            raise ValueError(f"{value} {what} are above the limit of {maximum}")
        return value

    def text(self) -> str:
        return self.take(self.count(HEADER_BYTES_MAX, "bytes of text")).decode("utf-8")

    def value(self, kind: int, *, nested: bool = False) -> Value:
        if kind in _SCALARS:
            code = _SCALARS[kind]
            (scalar,) = struct.unpack("<" + code, self.take(struct.calcsize(code)))
            return scalar  # type: ignore[no-any-return]
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY or nested:
            raise ValueError(f"a value of type {kind} is not read")
        item_kind, count = self.number("I"), self.count(ARRAY_MAX, "array items")
        if item_kind in _SCALARS:
            code = _SCALARS[item_kind]
            return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(code))))
        return [self.value(item_kind, nested=True) for _ in range(count)]


def _read(path: Path, reader: _Reader) -> GGUFFile:
    if reader.take(4) != MAGIC:
        raise ValueError("it does not begin with GGUF")
    if (version := reader.number("I")) not in VERSIONS:
        raise ValueError(f"its version is {version}")
    tensor_count = reader.count(TENSORS_MAX, "tensors")
    pair_count = reader.count(PAIRS_MAX, "metadata pairs")
    metadata: dict[str, Value] = {}
    for _ in range(pair_count):
        key = reader.text()
        metadata[key] = reader.value(reader.number("I"))
    entries = [_read_entry(reader) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= ALIGNMENT_MAX:
        raise ValueError("its alignment is out of range")
    base = -(-reader.position // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in entries:
        start = base + offset
        end = start + _size_bytes(name, shape, kind)
        if name in tensors or end > reader.size_bytes:
            raise ValueError(f"tensor '{name[:64]}' is there twice or passes the end of the file")
        tensors[name] = GGUFTensor(name, shape, kind, start, end)
    return GGUFFile(path, metadata, tensors)


def _read_entry(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    name = reader.text()
    dimensions = reader.number("I")
    if not 0 < dimensions <= DIMENSIONS_MAX:
        raise ValueError(f"tensor '{name[:64]}' has {dimensions} dimensions")
    # GGUF writes the innermost dimension first.
    shape = tuple(reversed([reader.number("Q") for _ in range(dimensions)]))
    longest = max(VOCABULARY_MAX, 16 * HIDDEN_SIZE_MAX)
    if any(not 0 < length <= longest for length in shape):
        raise ValueError(f"tensor '{name[:64]}' has the shape {shape}")
    return name, shape, reader.number("I"), reader.number("Q")


def _size_bytes(name: str, shape: tuple[int, ...], kind: int) -> int:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    if shape[-1] % block:
        raise ValueError(f"tensor '{name[:64]}' has rows of {shape[-1]}, no multiple of {block}")
    rows = 1
    for length in shape[:-1]:
        rows *= length
    return int(rows * (shape[-1] // block) * block_bytes)


def _typed(packed: npt.NDArray[np.uint8], kind: object) -> npt.NDArray[np.generic]:
    """Plain floats as such: the package takes bytes for quantized kinds only."""
    from gguf import GGMLQuantizationType

    if kind is GGMLQuantizationType.F32:
        return packed.view("<f4")
    if kind is GGMLQuantizationType.F16:
        return packed.view("<f2")
    return packed
