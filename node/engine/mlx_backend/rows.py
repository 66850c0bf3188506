"""What enters and leaves a step: numpy arrays in a wire dtype to MLX's, and back.

numpy has no bf16, so its bits cross as uint16. int8b32 is numpy's work on both sides
(node/engine/wire.py), so that its bytes are the same on every machine.
"""

import mlx.core as mx
import numpy as np

from node.engine.base import Activation
from node.engine.wire import decode, encode
from protocol.tensor import WireDtype

__all__ = ["from_wire", "to_lazy", "to_wire"]


def from_wire(hidden: Activation, dtype: WireDtype, hidden_size: int) -> mx.array:
    """A sound array as (rows, hidden_size), in bf16 where it travelled so and else in fp32."""
    if dtype is WireDtype.BF16:
        return mx.array(hidden).view(mx.bfloat16)
    return mx.array(decode(hidden, dtype, hidden_size))


def to_lazy(rows: mx.array, dtype: WireDtype) -> mx.array:
    """What is to be evaluated before `to_wire`: rows (rows, hidden_size) of any dtype."""
    if dtype is WireDtype.BF16:
        return mx.contiguous(rows.astype(mx.bfloat16)).view(mx.uint16)
    return rows.astype(mx.float32)


def to_wire(lazy: mx.array, dtype: WireDtype) -> Activation:
    """What travels, from an evaluated array of `to_lazy` that is finite. C-contiguous."""
    array = np.ascontiguousarray(np.array(lazy))
    return array if dtype is WireDtype.BF16 else encode(array, dtype)
