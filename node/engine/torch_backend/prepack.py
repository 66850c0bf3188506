"""Linears whose weights are reordered once into the layout a CPU kernel wants.

bf16 weights are held in oneDNN's blocked layout: bit-identical to the plain linear and up to twice
as fast. Where the CPU has no matrix unit (AMX), oneDNN reads one row's weights at 60 % of the
memory's bandwidth, so a second copy in fp16 serves steps of up to three rows through FBGEMM, which
reads at 95 %. fp16 holds every bf16 weight between 2**-17 and 65504 exactly and loses at most
2**-25 below; rows stay fp32 inside, so this path rounds less than bf16 does, not more.

Packed weights are opaque: they cannot be sliced, saved or moved, and the originals are dropped.
"""

from collections.abc import Sequence

import torch
from torch import nn

from node.engine.base import ComputeDtype
from node.engine.torch_backend.linear import HeldLinear, PlainLinear
from node.engine.torch_backend.quantized import make_int4, make_int8

__all__ = ["LinearMaker", "PackedLinear", "prepack_linears"]

ROWS_EXPECTED = 8
"""A hint to oneDNN. 1, 8 and 32 gave layouts of the same speed at 1 to 32 rows."""

FEW_ROWS_MAX = 3
"""Up to here FBGEMM's fp16 is faster than oneDNN's bf16 (27, 24 and 20 GB/s against 17, 14 and
17 where memory gives 29); at four rows they are equal."""

FP16_MAX = 65504.0

# Named overloads: choosing one at each call costs more than a small tensor's operation.
_multiply_bf16 = torch.ops.mkldnn._linear_pointwise.default
_multiply_fp16 = torch.ops.quantized.linear_dynamic_fp16.default


class PackedLinear(HeldLinear):
    """A linear over prepacked bf16 weights, with or without the fp16 copy for few rows."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, *, few_rows_copy: bool
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        weight = weight.contiguous()
        self._bias = bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS_EXPECTED)
        self._few = None
        if few_rows_copy and weight.abs().max() <= FP16_MAX:
            wide_bias = None if bias is None else bias.float()
            self._few = torch.ops.quantized.linear_prepack_fp16(weight.float(), wide_bias)
            self.fp32_rows_max = FEW_ROWS_MAX
        copies = 1 if self._few is None else 2
        self.held_bytes = copies * weight.nbytes + (0 if bias is None else bias.nbytes)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        if rows.numel() <= self.fp32_rows_max * self.in_features:
            return _multiply_fp16(rows.float(), self._few).to(rows.dtype)
        return _multiply_bf16(rows, self._packed, self._bias, "none", [], "")


class LinearMaker:
    """Makes the linears of one shard: packed where this machine has the kernels for its dtype."""

    def __init__(
        self,
        compute_dtype: ComputeDtype,
        *,
        weight_bytes: int,
        spare_bytes: int,
        device: torch.device | None = None,
    ) -> None:
        """A second copy of bf16 is made where all `weight_bytes` to come fit `spare_bytes`.

        `device` is where the given weights lie: the CPU if left out, and packing is only for it.
        """
        is_cpu = device is None or device.type == "cpu"
        self._dtype = compute_dtype
        self._packs_bf16 = is_cpu and compute_dtype is ComputeDtype.BF16 and _has_bf16_kernels()
        self._few_rows_copy = (
            self._packs_bf16
            and not torch.cpu._is_amx_tile_supported()
            and torch.backends.quantized.engine in ("x86", "fbgemm")
            and weight_bytes <= spare_bytes
        )

    @property
    def packs(self) -> bool:
        """Whether what it makes is anything but the plain weight."""
        return self._packs_bf16 or self._dtype in (ComputeDtype.INT8, ComputeDtype.INT4)

    def make(
        self, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None]
    ) -> HeldLinear:
        """One linear whose outputs are those of the given ones, laid end to end."""
        weight = (weights[0] if len(weights) == 1 else torch.cat(tuple(weights))).detach()
        bias = None
        if any(part is not None for part in biases):
            parts = [
                rows.new_zeros(len(rows)) if part is None else part
                for rows, part in zip(weights, biases, strict=True)
            ]
            bias = torch.cat(parts).detach()
        if self._dtype is ComputeDtype.INT8:
            return make_int8(weight, bias)
        if self._dtype is ComputeDtype.INT4:
            return make_int4(weight, bias)
        if self._packs_bf16:
            return PackedLinear(weight, bias, few_rows_copy=self._few_rows_copy)
        return PlainLinear(weight, bias)


def prepack_linears(module: nn.Module, maker: LinearMaker) -> None:
    """Replace every nn.Linear below `module` in place, where the maker packs at all."""
    if not maker.packs:
        return
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, maker.make([child.weight], [child.bias]))
        else:
            prepack_linears(child, maker)


def _has_bf16_kernels() -> bool:
    return bool(
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
