"""Weight-only int8 and int4: weights are rounded once at load, rows are not.

int8 (one scale an output row) is multiplied by FBGEMM as integers, which is exact: a row is split
into two planes of bytes that together keep 15 bits of it, and its result is bit for bit the same
whatever lies beside it. Where FBGEMM is not, and for int4 (a scale and a zero point a group of 64
inputs), torch's own weight-only kernels multiply few rows, and many rows are multiplied by the
weights turned back into bf16, a piece at a time.

Shapes that a kernel does not take are padded with zeros, which change no sum.
"""

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch.nn.functional import linear, pad

from node.engine.torch_backend.linear import HeldLinear

__all__ = [
    "FBGEMM_ENGINES",
    "INT4_GROUP",
    "INT4_KERNEL_ROWS_MAX",
    "INT8_KERNEL_ROWS_MAX",
    "ROUND_WEIGHTS",
    "KernelInt8Linear",
    "PlanesInt8Linear",
    "make_int4",
    "make_int8",
    "round_to_int4",
    "round_to_int8",
]

FBGEMM_ENGINES = ("x86", "fbgemm")
"""Of torch's quantized engines, those whose linears are FBGEMM's."""

INT4_GROUP = 64
"""Inputs that share a scale and a zero point; one of the sizes torch's kernel takes."""

INT4_BLOCK = 64
"""Outputs that the int4 kernel keeps together at most; it takes multiples of 16."""

INT8_MULTIPLE = 64
"""Inputs and outputs are padded to this for `_weight_int8pack_mm`, which crashed on 130 x 100."""

INT8_KERNEL_ROWS_MAX = 8
"""Up to here `_weight_int8pack_mm` beats turning the weights back (8192 x 1024, one Zen 4 core:
2.8 against 3.2 ms at 8 rows, 3.9 against 3.4 at 12)."""

INT4_KERNEL_ROWS_MAX = 48
"""Up to here `_weight_int4pack_mm_for_cpu` beats turning the weights back (8192 x 1024, one Zen 4
core: 9.7 against 10.5 ms at 48 rows, 13 against 12 at 64, 54 against 30 at 256; bf16 takes 21)."""

PIECE_WEIGHTS = 1 << 21
"""Weights turned back at once: 4 MiB in bf16 stay in the cache for their product, and an LM head
of a billion weights needs no room of its own."""

ROUND_WEIGHTS = 1 << 22
"""Weights rounded at once: 16 MiB in fp32, where an LM head in one piece can take gigabytes."""

PLANES_INPUTS_MAX = 1 << 16
"""255 x 127 x this many still fits the 32 bits that the integer units add in."""

FP32_ROWS_MAX = 8
"""The planes take and give fp32, so a decode's residual stream may stay unrounded. Not a matter of
speed: from 1 to 32 rows both ways took the same time, within 3 %. More rows take the half."""

TINY = 1e-30
"""Stands in for the largest value of a row or group of zeros."""

_multiply_planes = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default


def make_int8(weight: torch.Tensor, bias: torch.Tensor | None) -> HeldLinear:
    """int8 from a weight (out_features, in_features) in any float dtype, for this CPU."""
    if torch.backends.quantized.engine in FBGEMM_ENGINES and weight.shape[1] <= PLANES_INPUTS_MAX:
        return PlanesInt8Linear(weight, bias)
    return KernelInt8Linear(weight, bias)


def make_int4(weight: torch.Tensor, bias: torch.Tensor | None) -> HeldLinear:
    """int4 from a weight (out_features, in_features) in any float dtype, for this CPU."""
    return Int4Linear(weight, bias)


class PlanesInt8Linear(HeldLinear):
    """int8 weights for FBGEMM, multiplied as integers with two planes of each row.

    A row is split into coarse integers, +-`levels` for its largest value, and what they leave over,
    in units 2 * `levels` times finer. Milliseconds at 1, 8, 32 and 256 rows (8192 x 1024, one Zen 4
    core, shared): this 0.45, 1.1, 3.8, 28, of which FBGEMM 0.31, 0.9, 3.4, 27;
    `_weight_int8pack_mm` 1.2, 3.2, 11, 68; oneDNN's integer product alone 0.85, 1.1, 3.0, 21; bf16
    1.06, 1.3, 3.0, 21. So many rows are a third slower than in bf16.
    """

    fp32_rows_max = FP32_ROWS_MAX

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, *, levels: int | None = None
    ) -> None:
        super().__init__()
        self._levels = plane_levels() if levels is None else levels
        rounded, scales = round_to_int8(weight)
        self._packed = _pack_for_fbgemm(rounded, scales)
        self._tiny = torch.tensor(TINY)
        self._bias = None if bias is None else bias.float()
        self.held_bytes = rounded.nbytes + scales.nbytes
        self.held_bytes += 0 if self._bias is None else self._bias.nbytes

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        flat = rows.reshape(-1, rows.shape[-1]).float()
        levels = self._levels
        unit = torch.add(self._tiny, flat.abs().amax(-1, keepdim=True), alpha=1 / levels)
        scaled = flat / unit
        coarse = scaled.round()
        fine = scaled.sub_(coarse).mul_(2 * levels)
        # It rounds `fine` itself, and adds the zero point that makes bytes unsigned.
        product = _multiply_planes(torch.cat((coarse, fine)), 1.0, levels + 1, self._packed)
        coarse, fine = product.chunk(2)
        # A row with NaN or infinity has such a unit, so it stays visible in what comes out.
        wide = torch.add(coarse, fine, alpha=1 / (2 * levels)).mul_(unit)
        if self._bias is not None:
            wide += self._bias
        return wide.to(rows.dtype).view(*rows.shape[:-1], -1)


class KernelInt8Linear(HeldLinear):
    """int8 weights for torch's own kernel, turned back into the rows' dtype for many rows."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self._out_features = len(weight)
        # The kernel reads past the end of shapes that it does not take.
        self._padding = -weight.shape[1] % INT8_MULTIPLE
        padded = pad(weight, (0, self._padding, 0, -weight.shape[0] % INT8_MULTIPLE))
        self._rounded, scales = round_to_int8(padded)
        self._scales = scales.to(torch.bfloat16)
        self._bias = None if bias is None else bias.to(torch.bfloat16)
        held = (self._rounded, self._scales, *(() if bias is None else (self._bias,)))
        self.held_bytes = sum(part.nbytes for part in held if part is not None)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        flat = _bf16_rows(rows, self._padding)
        if len(flat) <= INT8_KERNEL_ROWS_MAX:
            product = torch._weight_int8pack_mm(flat, self._rounded, self._scales)
        else:
            size = max(1, PIECE_WEIGHTS // flat.shape[1])
            pieces = [
                linear(flat, part.to(flat.dtype)) * scales
                for part, scales in zip(
                    self._rounded.split(size), self._scales.split(size), strict=True
                )
            ]
            product = torch.cat(pieces, dim=-1)
        product = product[:, : self._out_features]
        if self._bias is not None:
            product = product + self._bias
        return product.to(rows.dtype).view(*rows.shape[:-1], -1)


class Int4Linear(HeldLinear):
    """int4 weights for torch's own kernel, turned back into bf16 for many rows.

    weight = (value - 8) * scale + zero, value in 0..15, scale and zero in bf16 a group.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self._out_features = len(weight)
        padding = (0, -weight.shape[1] % INT4_GROUP, 0, -weight.shape[0] % INT4_BLOCK)
        packed, scales_and_zeros = [], []
        for part in _pieces(pad(weight, padding), INT4_BLOCK):
            values, some = round_to_int4(part)
            packed.append(torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 1))
            scales_and_zeros.append(some)
        self._packed = torch.cat(packed)
        self._scales_and_zeros = torch.cat(scales_and_zeros, dim=1)
        self._padding = padding[1]
        self._bias = None if bias is None else bias.to(torch.bfloat16)
        self._half = _int4_half()
        self.held_bytes = self._packed.nbytes + self._scales_and_zeros.nbytes
        self.held_bytes += 0 if self._bias is None else self._bias.nbytes

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        flat = _bf16_rows(rows, self._padding)
        if len(flat) <= INT4_KERNEL_ROWS_MAX or self._half is None:
            product = torch.ops.aten._weight_int4pack_mm_for_cpu(
                flat, self._packed, INT4_GROUP, self._scales_and_zeros
            )
        else:
            product = self._multiply_pieces(flat, self._half)
        product = product[:, : self._out_features]
        if self._bias is not None:
            product = product + self._bias
        return product.to(rows.dtype).view(*rows.shape[:-1], -1)

    def _multiply_pieces(self, rows: torch.Tensor, half: int) -> torch.Tensor:
        """rows (N, in_features) times all weights, turned back into bf16 a piece at a time.

        Low nibbles hold the first `half` outputs of a block, high ones the others. The two are
        multiplied apart, because scaling long runs of outputs is several times faster.
        """
        inputs = rows.shape[1]
        packed = self._packed.view(-1, inputs, half)
        # (scale or zero, half, group, block, output)
        scales = self._scales_and_zeros.view(-1, len(packed), 2, half, 2).permute(4, 2, 0, 1, 3)
        size = max(1, PIECE_WEIGHTS // (2 * half * inputs))
        products = []
        for first in range(0, len(packed), size):
            piece = packed[first : first + size].transpose(0, 1).reshape(inputs, -1)
            weights = rows.new_empty(2, inputs, piece.shape[1])
            weights[0] = (piece & 15).view(torch.int8).sub_(8)
            weights[1] = (piece >> 4).view(torch.int8).sub_(8)
            scale, zero = scales[:, :, :, first : first + size].reshape(2, 2, -1, 1, piece.shape[1])
            grouped = weights.view(2, -1, INT4_GROUP, piece.shape[1])
            torch.addcmul(zero, grouped, scale, out=grouped)
            product = torch.matmul(rows, weights).view(2, len(rows), -1, half)
            products.append(product.permute(1, 2, 0, 3).reshape(len(rows), -1))
        return torch.cat(products, dim=-1)


def _pieces(weight: torch.Tensor, multiple: int) -> Sequence[torch.Tensor]:
    """Some output rows each, a multiple of `multiple` but the last: fp32 copies stay small."""
    rows = max(1, ROUND_WEIGHTS // (weight.shape[1] * multiple)) * multiple
    return weight.split(rows)


def plane_levels() -> int:
    """The largest integer of a plane: bytes from 1 to 255, or to 127 where sums of two products
    are kept in 16 bits on the way (127 * 127 * 2 still fits)."""
    return 127 if torch.cpu._is_vnni_supported() else 63


def _pack_for_fbgemm(rounded: torch.Tensor, scales: torch.Tensor) -> Any:
    """int8 (out_features, in_features) and its scales in FBGEMM's layout; opaque."""
    zero_points = torch.zeros(len(rounded), dtype=torch.int64)
    with warnings.catch_warnings():
        # FBGEMM takes its weights only in a form that torch means to remove; torch is pinned.
        warnings.filterwarnings("ignore", ".*creation functions that produce tensors with dtype")
        stored = torch._make_per_channel_quantized_tensor(rounded, scales.double(), zero_points, 0)
        return torch.ops.quantized.linear_prepack(stored, None)


def _bf16_rows(rows: torch.Tensor, padding: int) -> torch.Tensor:
    """(..., in_features) as (N, in_features + padding), which torch's own kernels are fast with."""
    flat = rows.reshape(-1, rows.shape[-1]).to(torch.bfloat16)
    return pad(flat, (0, padding)) if padding else flat.contiguous()


def round_to_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 values and fp32 scales (out_features,), the largest value of a row being 127."""
    values, all_scales = [], []
    for part in _pieces(weight, 1):
        wide = part.float()
        scales = wide.abs().amax(dim=1).clamp_(min=TINY).div_(127)
        values.append((wide / scales.unsqueeze(1)).round_().to(torch.int8))
        all_scales.append(scales)
    return torch.cat(values), torch.cat(all_scales)


def round_to_int4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values 0..15 in int32, and bf16 scales and zeros (groups, out_features, 2).

    A group's least value is 0 and its greatest 15. Scale and zero are rounded to bf16 first, so
    that values are the nearest to what the kernel will make of them.
    """
    groups = weight.float().view(len(weight), -1, INT4_GROUP)
    lowest, highest = groups.aminmax(dim=-1, keepdim=True)
    scale = ((highest - lowest) / 15).clamp_(min=TINY).bfloat16()
    zero = (lowest + 8 * scale.float()).bfloat16()
    values = ((groups - zero.float()) / scale.float()).round_().add_(8).clamp_(0, 15)
    scales_and_zeros = torch.cat((scale, zero), dim=-1).transpose(0, 1).contiguous()
    return values.view(weight.shape).to(torch.int32), scales_and_zeros


@cache
def _int4_half() -> int | None:
    """Half of a block's outputs in the layout that this CPU's int4 kernel packs to.

    The layout is torch's own affair and differs by CPU, so it is tried out; None for one that is
    not known here, whose weights only the kernel can read.
    """
    values = torch.randint(
        16, (2 * INT4_BLOCK, INT4_GROUP), generator=torch.Generator().manual_seed(0)
    )
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values.int(), 1)
    for half in (INT4_BLOCK // 2, INT4_BLOCK // 4):
        blocks = packed.view(-1, INT4_GROUP, half)
        unpacked = torch.cat((blocks & 15, blocks >> 4), dim=-1).transpose(1, 2)
        if torch.equal(unpacked.reshape(values.shape).long(), values):
            return half
    return None
