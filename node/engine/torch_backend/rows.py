"""What enters and leaves a step: conversion from and to the wire, on the rows' own device.

The int8 dtypes are those of node/engine/wire.py, byte for byte: every operation here is exact, or
rounded once as IEEE 754 says, so no library or device can differ. numpy has no bf16, so bf16
crosses as its bits in uint16.
"""

import itertools
import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch.nn.functional import pad

from node.engine.base import Activation
from node.engine.wire import (
    CACHED_VALUES,
    SCALE_MAX,
    SCALE_MIN,
    VALUE_MAX,
    turn_block,
    turn_strides,
)
from protocol.tensor import SCALE_BLOCK, SCALE_BYTES, WireDtype

__all__ = ["from_wire", "from_wire_all", "to_wire", "to_wire_all"]

_TORCH_DTYPE = {
    WireDtype.FP32: torch.float32,
    WireDtype.BF16: torch.bfloat16,
    WireDtype.INT8B32: torch.uint8,
    WireDtype.INT8B32H: torch.uint8,
}
_SCALE_MIN, _SCALE_MAX = (
    float(torch.tensor(bits, dtype=torch.uint16).view(torch.bfloat16))
    for bits in (SCALE_MIN, SCALE_MAX)
)


def from_wire_all(
    parts: Sequence[tuple[slice, WireDtype, Activation]], target: torch.Tensor
) -> None:
    """Write each part's rows into its own rows of `target`; parts of one dtype travel together.

    A conversion is a dozen small calls, which would otherwise be paid for by every sequence.
    """
    for dtype in {dtype for _, dtype, _ in parts}:
        slices = [rows for rows, wire_dtype, _ in parts if wire_dtype is dtype]
        joined = np.concatenate([hidden for _, wire_dtype, hidden in parts if wire_dtype is dtype])
        if all(before.stop == after.start for before, after in itertools.pairwise(slices)):
            from_wire(joined, dtype, target[slices[0].start : slices[-1].stop])
            continue
        staging = target.new_empty(len(joined), target.shape[1])
        from_wire(joined, dtype, staging)
        used = 0
        for rows in slices:
            count = rows.stop - rows.start
            target[rows] = staging[used : used + count]
            used += count


def to_wire_all(parts: Sequence[tuple[slice, WireDtype]], hidden: torch.Tensor) -> list[Activation]:
    """The rows of each part as they travel, in the parts' order; see `from_wire_all`."""
    arrays: dict[int, Activation] = {}
    for dtype in {dtype for _, dtype in parts}:
        own = [index for index, (_, wire_dtype) in enumerate(parts) if wire_dtype is dtype]
        slices = [parts[index][0] for index in own]
        joined = to_wire(torch.cat([hidden[rows] for rows in slices]), dtype)
        ends = np.cumsum([rows.stop - rows.start for rows in slices])
        for index, array in zip(own, np.split(joined, ends[:-1]), strict=True):
            arrays[index] = cast("Activation", array)
    return [arrays[index] for index in range(len(parts))]


def from_wire(hidden: Activation, wire_dtype: WireDtype, target: torch.Tensor) -> None:
    """Write the rows of a sound array into `target` (rows, hidden_size) on any device.

    Rounds to nearest even where `target` is narrower. The bytes cross to the device, not the rows.
    """
    dtype = _TORCH_DTYPE[wire_dtype]
    is_direct = target.dtype is dtype and target.device.type == "cpu"
    # The array may be read-only (shared memory), and torch has no read-only tensors: numpy copies.
    staging = target if is_direct else torch.empty(hidden.shape, dtype=dtype)
    np.copyto(_as_array(staging), hidden)
    if is_direct:
        return
    staging = staging.to(target.device)
    if dtype is torch.uint8:
        staging = _dequantize(staging, target.shape[1])
    target.copy_(_turn(staging) if wire_dtype is WireDtype.INT8B32H else staging)


def to_wire(rows: torch.Tensor, wire_dtype: WireDtype) -> Activation:
    """Finite (rows, hidden_size) of any device as the array that travels, C-contiguous.

    Shares memory where nothing changes. Encodes on the device: the bytes are copied, not the rows.
    """
    if wire_dtype is WireDtype.INT8B32H:
        rows = _turn(rows)
    dtype = _TORCH_DTYPE[wire_dtype]
    elements = _quantize(rows) if dtype is torch.uint8 else rows.to(dtype)
    return _as_array(elements.contiguous().cpu())


def _quantize(rows: torch.Tensor) -> torch.Tensor:
    """uint8 (rows, bytes): as `wire.encode` does."""
    count, hidden_size = rows.shape
    block_count = -(-hidden_size // SCALE_BLOCK)
    padded = pad(rows.float(), (0, block_count * SCALE_BLOCK - hidden_size))
    blocks = padded.view(count, block_count, SCALE_BLOCK)
    largest = blocks.abs().amax(2)
    # A divisor that is a number would become a multiplication on CUDA, which rounds otherwise.
    scales = (largest / torch.full_like(largest, VALUE_MAX)).bfloat16()
    scales = scales.clamp_(_SCALE_MIN, _SCALE_MAX)
    values = (blocks / scales.float()[:, :, None]).round_().clamp_(-VALUE_MAX, VALUE_MAX)
    array = rows.new_empty(count, WireDtype.INT8B32.row_bytes(hidden_size), dtype=torch.uint8)
    head_bytes = SCALE_BYTES * block_count
    array[:, :head_bytes] = scales.view(torch.uint8)
    array[:, head_bytes:].view(torch.int8).copy_(values.view(padded.shape)[:, :hidden_size])
    return array


def _dequantize(array: torch.Tensor, hidden_size: int) -> torch.Tensor:
    """float32 (rows, hidden_size): as `wire.decode` does."""
    block_count = -(-hidden_size // SCALE_BLOCK)
    head_bytes = SCALE_BYTES * block_count
    # A copy, as a view of wider elements needs even strides and a row may have odd bytes.
    scales = array[:, :head_bytes].clone(memory_format=torch.contiguous_format)
    scales = scales.view(torch.bfloat16).float()
    values = array[:, head_bytes:].view(torch.int8).float()
    padded = pad(values, (0, block_count * SCALE_BLOCK - hidden_size))
    blocks = padded.view(len(array), block_count, SCALE_BLOCK) * scales[:, :, None]
    return blocks.view(padded.shape)[:, :hidden_size]


def _turn(rows: torch.Tensor) -> torch.Tensor:
    """float32 (rows, hidden_size): as `wire.turn` does."""
    turned = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
    is_cpu = rows.device.type == "cpu"  # elsewhere a call costs more than a cache miss
    step = max(1, CACHED_VALUES // rows.shape[1] if is_cpu else len(rows))
    for part, into in zip(rows.split(step), turned.split(step), strict=True):
        _turn_part(part, into)
    return turned


def _turn_part(rows: torch.Tensor, turned: torch.Tensor) -> None:
    count, hidden_size = rows.shape
    block = turn_block(hidden_size)
    # Transposed, so that each addition runs over contiguous memory.
    sums = rows.t().float().contiguous() * (1 / block)
    other = torch.empty_like(sums)
    for apart in turn_strides(block):
        shape = (hidden_size // (2 * apart), 2, apart * count)
        first, second = sums.view(shape).unbind(1)
        added, subtracted = other.view(shape).unbind(1)
        torch.add(first, second, out=added)
        torch.sub(first, second, out=subtracted)
        sums, other = other, sums
    torch.mul(sums.t(), math.sqrt(block), out=turned)


def _as_array(tensor: torch.Tensor) -> Activation:
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    array: Activation = tensor.numpy()
    return array
