"""Control messages between an engine's parent and its worker: small canonical CBOR, no pickle.

    frame    = length (4 bytes, big-endian), body
    request  = [request id, operation, payload]
    reply    = [request id, null, payload]  |  [request id, [error name, message, hint], null]

Arrays travel beside them in the shared memory (channel.py); shapes and offsets follow from the
items, so that both sides compute the same ones.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from node.engine import errors
from node.engine.base import (
    ComputeDtype,
    EngineStatistics,
    Output,
    ShardSpec,
    StepItem,
    StepResult,
    wire_array_dtype,
    wire_array_shape,
)
from node.engine.channel import Area
from protocol.errors import EngineError, LocalProtocolError
from protocol.record import decode_canonical, encode_canonical
from protocol.route import Span
from protocol.tensor import WireDtype

__all__ = [
    "LENGTH",
    "MESSAGE_BYTES_MAX",
    "Operation",
    "decode_drawn",
    "decode_error",
    "decode_items",
    "decode_message",
    "decode_spec",
    "decode_statistics",
    "encode_drawn",
    "encode_error",
    "encode_items",
    "encode_message",
    "encode_spec",
    "encode_statistics",
    "result_arrays",
    "result_shape",
]

LENGTH = struct.Struct(">I")

_ITEM = struct.Struct("<qQIIBB?")
"""Sequence, position, count, wanted, output, wire dtype, whether it brings tokens."""

MESSAGE_BYTES_MAX = 8 * 1024 * 1024
"""A full batch in which every item is refused: 1024 times two reasons of 500 characters."""

REASON_CHARACTERS_MAX = 500
"""Of an error's message: enough for a sentence, small enough for a full batch of refusals."""

_ERRORS: dict[str, type[EngineError]] = {name: getattr(errors, name) for name in errors.__all__}
_OUTPUTS = tuple(Output)
_WIRE_DTYPES = tuple(WireDtype)


class Operation(IntEnum):
    """What the parent asks for."""

    LOAD = 0
    OPEN = 1
    STEP = 2
    TRUNCATE = 3
    CLOSE = 4
    STATISTICS = 5
    STOP = 6


def encode_message(*fields: object) -> bytes:
    """A framed message; raises LocalProtocolError above MESSAGE_BYTES_MAX."""
    body = encode_canonical(list(fields))
    if len(body) > MESSAGE_BYTES_MAX:
        raise LocalProtocolError(f"A control message of {len(body)} bytes is too long.")
    return LENGTH.pack(len(body)) + body


def decode_message(body: bytes) -> tuple[int, Any, Any]:
    """The three fields of a request or a reply."""
    request_id, middle, payload = cast(
        "list[Any]", decode_canonical(body, size_max=MESSAGE_BYTES_MAX)
    )
    return request_id, middle, payload


def encode_error(error: Exception) -> list[str]:
    """Name and sentence only: a traceback stays in the worker's log."""
    if isinstance(error, EngineError):
        name, message, hint = type(error).__name__, error.message, error.hint
    else:
        name, message, hint = "EngineError", f"The engine failed: {error!r}", ""
    return [name, message[:REASON_CHARACTERS_MAX], hint[:REASON_CHARACTERS_MAX]]


def decode_error(fields: Sequence[str]) -> EngineError:
    name, message, hint = fields
    return _ERRORS.get(name, EngineError)(message, hint=hint)


def encode_spec(spec: ShardSpec) -> dict[str, object]:
    return {
        "directory": str(spec.directory),
        "span": [spec.span.start, spec.span.end],
        "embeds": spec.embeds,
        "has_head": spec.has_head,
        "compute_dtype": spec.compute_dtype.value,
        "kv_tokens": spec.kv_tokens,
        "threads": spec.threads,
        "spare_bytes": spec.spare_bytes,
        "device": spec.device,
    }


def decode_spec(fields: dict[str, Any]) -> ShardSpec:
    replaced = {
        "directory": Path(fields["directory"]),
        "span": Span(*fields["span"]),
        "compute_dtype": ComputeDtype(fields["compute_dtype"]),
    }
    return ShardSpec(**{**fields, **replaced})


def encode_drawn(drawn: Sequence[int]) -> bytes:
    """Token ids of a vocabulary, which fit int32: a long answer's as numbers would take longer."""
    return np.asarray(drawn, dtype="<i4").tobytes()


def decode_drawn(data: bytes) -> list[int]:
    drawn: list[int] = np.frombuffer(data, dtype="<i4").tolist()
    return drawn


def encode_statistics(statistics: EngineStatistics) -> list[int]:
    s = statistics
    busy_ns = round(s.busy_s * 1e9)
    return [
        s.sequences, s.kv_tokens_reserved, s.kv_tokens_max, s.steps, s.rows, busy_ns,
        s.kv_tokens_cached, s.reused_tokens,
    ]  # fmt: skip


def decode_statistics(fields: list[int]) -> EngineStatistics:
    sequences, reserved, kv_max, steps, rows, busy_ns, cached, reused = fields
    return EngineStatistics(sequences, reserved, kv_max, steps, rows, busy_ns / 1e9, cached, reused)


def encode_items(batch: Sequence[StepItem]) -> bytes:
    """Everything of the items but their arrays: a fixed layout, as this is in every step's way."""
    return b"".join(
        _ITEM.pack(
            item.sequence_id,
            item.position,
            item.count,
            item.wanted,
            _OUTPUTS.index(item.output),
            _WIRE_DTYPES.index(item.wire_dtype),
            item.tokens is not None,
        )
        for item in batch
    )


def decode_items(data: bytes, hidden_size: int, area: Area) -> list[StepItem]:
    """The items, their arrays being views of the input area."""
    entries = list(_ITEM.iter_unpack(data))
    shapes: list[tuple[tuple[int, ...], npt.DTypeLike]] = [
        ((count,), np.int32) if is_tokens else _wire_array(count, hidden_size, _WIRE_DTYPES[wire])
        for _, _, count, _, _, wire, is_tokens in entries
    ]
    return [
        StepItem(
            sequence_id,
            position,
            count,
            wanted,
            _OUTPUTS[output],
            _WIRE_DTYPES[wire],
            tokens=array if is_tokens else None,
            hidden=None if is_tokens else array,
        )
        for (sequence_id, position, count, wanted, output, wire, is_tokens), array in zip(
            entries, area.read(shapes), strict=True
        )
    ]


def result_shape(item: StepItem, hidden_size: int) -> tuple[tuple[int, ...], npt.DTypeLike]:
    """Shape and dtype of what an item yields."""
    if item.output is Output.TOKENS:
        return (item.wanted,), np.int32
    return _wire_array(item.wanted, hidden_size, item.wire_dtype)


def _wire_array(
    count: int, hidden_size: int, dtype: WireDtype
) -> tuple[tuple[int, ...], npt.DTypeLike]:
    return wire_array_shape(count, hidden_size, dtype), wire_array_dtype(dtype)


def result_arrays(
    batch: Sequence[StepItem], results: Sequence[StepResult | EngineError], hidden_size: int
) -> list[npt.NDArray[Any]]:
    """The arrays of the items that ran, checked against what was asked for."""
    arrays: list[npt.NDArray[Any]] = []
    for item, result in zip(batch, results, strict=True):
        if isinstance(result, EngineError):
            continue
        array = result.tokens if item.output is Output.TOKENS else result.hidden
        shape, dtype = result_shape(item, hidden_size)
        if array is None or array.shape != shape or array.dtype != dtype:
            raise LocalProtocolError(f"The engine did not yield {dtype} of shape {shape}.")
        arrays.append(array)
    return arrays
