"""What enters and leaves a step: conversion from and to the wire.

numpy has no bf16, so bf16 crosses as its bits in uint16.
"""

import numpy as np
import torch

from node.engine.base import Activation
from protocol.tensor import WireDtype

__all__ = ["from_wire", "to_wire"]

_TORCH_DTYPE = {WireDtype.FP32: torch.float32, WireDtype.BF16: torch.bfloat16}


def from_wire(hidden: Activation, wire_dtype: WireDtype, target: torch.Tensor) -> None:
    """Write wire elements into `target` (rows, hidden_size), rounding to nearest even."""
    dtype = _TORCH_DTYPE[wire_dtype]
    # The array may be read-only (shared memory), and torch has no read-only tensors: numpy copies.
    staging = target if target.dtype is dtype else torch.empty(target.shape, dtype=dtype)
    np.copyto(_as_array(staging), hidden)
    if staging is not target:
        target.copy_(staging)


def to_wire(rows: torch.Tensor, wire_dtype: WireDtype) -> Activation:
    """(rows, hidden_size) as wire elements, C-contiguous. Shares memory where nothing changes."""
    return _as_array(rows.to(_TORCH_DTYPE[wire_dtype]).contiguous())


def _as_array(tensor: torch.Tensor) -> Activation:
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    array: Activation = tensor.numpy()
    return array
