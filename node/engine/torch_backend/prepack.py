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
from torch.nn.functional import linear

__all__ = ["LinearMaker", "PackedLinear", "PlainLinear", "held_bytes", "prepack_linears"]

ROWS_EXPECTED = 8
"""A hint to oneDNN. 1, 8 and 32 gave layouts of the same speed at 1 to 32 rows."""

FEW_ROWS_MAX = 3
"""Up to here FBGEMM's fp16 is faster than oneDNN's bf16 (27, 24 and 20 GB/s against 17, 14 and
17 where memory gives 29); at four rows they are equal."""

FP16_MAX = 65504.0


class PlainLinear(nn.Module):
    """A linear over an unpacked weight, for fp32 and for CPUs without bf16 kernels."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return linear(rows, self.weight, self.bias)


class PackedLinear(nn.Module):
    """A linear over prepacked bf16 weights: (..., in_features) to (..., out_features).

    Gives back the dtype it is given: bf16, or fp32 up to `fp32_rows_max` rows.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, *, few_rows_copy: bool
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        weight = weight.detach().contiguous()
        self._bias = None if bias is None else bias.detach()
        # Plain attributes: opaque tensors must not be found by state_dict or .to().
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS_EXPECTED)
        self._few = None
        if few_rows_copy and weight.abs().max() <= FP16_MAX:
            wide_bias = None if bias is None else bias.detach().float()
            self._few = torch.ops.quantized.linear_prepack_fp16(weight.float(), wide_bias)
        copies = 1 if self._few is None else 2
        self.held_bytes = copies * weight.nbytes + (0 if bias is None else bias.nbytes)

    @property
    def fp32_rows_max(self) -> int:
        """Up to how many rows may come, and go, unrounded."""
        return 0 if self._few is None else FEW_ROWS_MAX

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        if rows.numel() <= self.fp32_rows_max * self.in_features:
            wide = torch.ops.quantized.linear_dynamic_fp16(rows.float(), self._few)
            return wide.to(rows.dtype)
        return torch.ops.mkldnn._linear_pointwise(rows, self._packed, self._bias, "none", [], "")


class LinearMaker:
    """Makes the linears of one shard: packed where this machine has the kernels for its dtype."""

    def __init__(self, dtype: torch.dtype, weight_bytes: int, spare_bytes: int) -> None:
        """A second copy is made where all `weight_bytes` to come fit into `spare_bytes`."""
        self.packs = (
            dtype is torch.bfloat16
            and torch.backends.mkldnn.is_available()
            and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )
        self._few_rows_copy = (
            self.packs
            and not torch.cpu._is_amx_tile_supported()
            and torch.backends.quantized.engine in ("x86", "fbgemm")
            and weight_bytes <= spare_bytes
        )

    def make(
        self, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None]
    ) -> PackedLinear | PlainLinear:
        """One linear whose outputs are those of the given ones, laid end to end."""
        weight = weights[0].detach() if len(weights) == 1 else torch.cat(tuple(weights)).detach()
        bias = None
        if any(part is not None for part in biases):
            parts = [
                torch.zeros(len(rows), dtype=rows.dtype) if part is None else part
                for rows, part in zip(weights, biases, strict=True)
            ]
            bias = torch.cat(parts).detach()
        if not self.packs:
            return PlainLinear(weight, bias)
        return PackedLinear(weight, bias, few_rows_copy=self._few_rows_copy)


def prepack_linears(module: nn.Module, maker: LinearMaker) -> None:
    """Replace every nn.Linear below `module` in place, where the maker packs at all."""
    if not maker.packs:
        return
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, maker.make([child.weight], [child.bias]))
        else:
            prepack_linears(child, maker)


def held_bytes(module: nn.Module) -> int:
    """Bytes of all weights below `module` as held: packed copies too, shared ones once."""
    packed = sum(part.held_bytes for part in module.modules() if isinstance(part, PackedLinear))
    plain = {parameter.data_ptr(): parameter.nbytes for parameter in module.parameters()}
    return packed + sum(plain.values())
