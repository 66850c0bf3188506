"""The wire dtypes as numpy: float32 rows to the array that travels, and back.

This file is the definition; torch_backend/rows.py computes the same on a device, byte for byte,
which is what lets engines of two kinds serve one route and audits compare. A row of int8b32 is

    scales  one bf16 for every 32 values, in order        2 × ceil(hidden / 32) bytes
    values  one int8 each                                  hidden bytes

with scale = max|x| / 127 rounded to bf16, kept within [SCALE_MIN, SCALE_MAX], and value = x / scale
rounded half to even, clamped to ±127; all in float32. The last block of a row has what is left.
int8b32h turns the row first and turns it back after, see `turn`. Encoding is a function of the row
alone. An audit should fingerprint decoded values: those are what the next hop computed with.
"""

import math
from typing import assert_never, cast

import numpy as np
import numpy.typing as npt

from node.engine.base import Activation, wire_array_dtype, wire_array_shape
from protocol.tensor import SCALE_BLOCK, SCALE_BYTES, WireDtype

__all__ = [
    "CACHED_VALUES",
    "SCALE_MAX",
    "SCALE_MIN",
    "VALUE_MAX",
    "Rows",
    "decode",
    "encode",
    "from_payload",
    "is_sound",
    "turn",
    "turn_block",
    "turn_strides",
]

Rows = npt.NDArray[np.float32]
"""(rows, hidden_size), finite."""

VALUE_MAX = 127

SCALE_MIN = 0x322C
"""Bits of the bf16 next above 1e-8: blocks whose values all lie below 5e-9 become zeros."""

SCALE_MAX = 0x7880
"""Bits of the bf16 2**114: 128 of it, summed 64-fold by a turn, are finite in fp32 and in bf16.

Larger values than 127 of it (2.6e36) are sent as that; no model that works has any.
"""

TURN_BLOCK_MAX = 4096
"""Values turned together: an outlier is spread 64-fold, and 12 rounds of additions suffice."""

CACHED_VALUES = 1 << 16
"""A CPU turns this many values at a time: two buffers of 256 KB stay in its second-level cache."""

_BF16_EXPONENT = np.uint16(0x7F80)


def encode(rows: Rows, dtype: WireDtype) -> Activation:
    """What travels for finite float32 rows: `wire_array_shape`, C-contiguous.

    Shares memory with `rows` where nothing changes.
    """
    match dtype:
        case WireDtype.FP32:
            return np.ascontiguousarray(rows)
        case WireDtype.BF16:
            return _to_bf16(rows)
        case WireDtype.INT8B32:
            return _quantize(rows)
        case WireDtype.INT8B32H:
            return _quantize(turn(rows))
    assert_never(dtype)


def decode(array: Activation, dtype: WireDtype, hidden_size: int) -> Rows:
    """float32 (rows, hidden_size) of an array that is sound. May share the array's memory."""
    match dtype:
        case WireDtype.FP32:
            return cast("Rows", array)
        case WireDtype.BF16:
            return _from_bf16(cast("npt.NDArray[np.uint16]", array))
        case WireDtype.INT8B32:
            return _dequantize(array, hidden_size)
        case WireDtype.INT8B32H:
            return turn(_dequantize(array, hidden_size))
    assert_never(dtype)


def from_payload(
    payload: bytes | memoryview, dtype: WireDtype, *, count: int, hidden_size: int
) -> Activation:
    """A frame's payload as an array, without copying; its length has been checked."""
    elements = np.frombuffer(payload, dtype=wire_array_dtype(dtype))
    return elements.reshape(wire_array_shape(count, hidden_size, dtype))


def is_sound(array: Activation, dtype: WireDtype, hidden_size: int) -> bool:
    """Whether decoding a stranger's array yields finite numbers only.

    In int8b32 every scale must be one that an encoder can send: no NaN, no infinity, no zero, no
    subnormal, none negative. Any int8 will do.
    """
    match dtype:
        case WireDtype.FP32:
            return bool(np.isfinite(array).all())
        case WireDtype.BF16:
            exponents = np.bitwise_and(array, _BF16_EXPONENT, dtype=np.uint16)
            return not bool((exponents == _BF16_EXPONENT).any())
        case WireDtype.INT8B32 | WireDtype.INT8B32H:
            scales = array[:, : SCALE_BYTES * _block_count(hidden_size)].view(np.uint16)
            # bf16 bits order as their numbers do; a set sign bit is above them all.
            return bool(((scales >= SCALE_MIN) & (scales <= SCALE_MAX)).all())
    assert_never(dtype)


def turn(rows: Rows) -> Rows:
    """Each block of `turn_block` values times H / sqrt(block), H Sylvester's Hadamard matrix.

    H is symmetric and orthonormal with that factor, so the turn undoes itself, but for rounding. It
    spreads an outlier over its whole block. So that every library and device gets the same bits,
    the additions have one order: pairs 1 apart, then 2, 4, … apart (the fast transform), after a
    division by the block, which is exact and keeps sums finite, and before one multiplication by
    sqrt(block). Beyond float32 that gives infinity, which SCALE_MAX takes care of.
    """
    turned = np.empty(rows.shape, np.float32)
    step = max(1, CACHED_VALUES // rows.shape[1])
    for start in range(0, len(rows), step):
        _turn_part(rows[start : start + step], turned[start : start + step])
    return turned


def _turn_part(rows: Rows, turned: Rows) -> None:
    count, hidden_size = rows.shape
    block = turn_block(hidden_size)
    # Transposed, so that each addition runs over contiguous memory.
    sums = np.multiply(rows.T, np.float32(1 / block), order="C")
    other = np.empty_like(sums)
    for apart in turn_strides(block):
        shape = (hidden_size // (2 * apart), 2, apart * count)
        pairs, added = sums.reshape(shape), other.reshape(shape)
        np.add(pairs[:, 0], pairs[:, 1], out=added[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=added[:, 1])
        sums, other = other, sums
    with np.errstate(over="ignore"):
        np.multiply(sums.T, np.float32(math.sqrt(block)), out=turned)


def turn_block(hidden_size: int) -> int:
    """The largest power of two that divides the hidden size, at most TURN_BLOCK_MAX."""
    return min(hidden_size & -hidden_size, TURN_BLOCK_MAX)


def turn_strides(block: int) -> list[int]:
    """How far apart the pairs of each round of additions are: 1, 2, 4 … block / 2."""
    return [1 << exponent for exponent in range(block.bit_length() - 1)]


def _quantize(rows: Rows) -> npt.NDArray[np.uint8]:
    count, hidden_size = rows.shape
    block_count = _block_count(hidden_size)
    left_over = block_count * SCALE_BLOCK - hidden_size
    padded = np.pad(rows, ((0, 0), (0, left_over))) if left_over else rows
    blocks = padded.reshape(count, block_count, SCALE_BLOCK)
    largest = np.abs(blocks).max(axis=2)
    bits = np.clip(_to_bf16(largest / np.float32(VALUE_MAX)), SCALE_MIN, SCALE_MAX)
    values = np.rint(blocks / _from_bf16(bits)[:, :, None])
    np.clip(values, -VALUE_MAX, VALUE_MAX, out=values)
    array = np.empty((count, WireDtype.INT8B32.row_bytes(hidden_size)), np.uint8)
    array[:, : SCALE_BYTES * block_count] = bits.view(np.uint8)
    values = values.reshape(padded.shape)[:, :hidden_size]
    array[:, SCALE_BYTES * block_count :].view(np.int8)[...] = values
    return array


def _dequantize(array: Activation, hidden_size: int) -> Rows:
    block_count = _block_count(hidden_size)
    scales = _from_bf16(array[:, : SCALE_BYTES * block_count].view(np.uint16))
    values = array[:, SCALE_BYTES * block_count :].view(np.int8)
    if hidden_size % SCALE_BLOCK:
        return values * np.repeat(scales, SCALE_BLOCK, axis=1)[:, :hidden_size]
    blocks = values.reshape(len(array), block_count, SCALE_BLOCK)
    rows: Rows = np.multiply(blocks, scales[:, :, None], dtype=np.float32)
    return rows.reshape(len(array), hidden_size)


def _block_count(hidden_size: int) -> int:
    return -(-hidden_size // SCALE_BLOCK)


def _to_bf16(values: Rows) -> npt.NDArray[np.uint16]:
    """Rounded to nearest, half to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded: npt.NDArray[np.uint16] = (
        (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    ).astype(np.uint16)
    return rounded


def _from_bf16(bits: npt.NDArray[np.uint16]) -> Rows:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
