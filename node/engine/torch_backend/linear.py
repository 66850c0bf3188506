"""What every linear of a shard is: a module that says how many bytes it holds.

`PlainLinear` multiplies by an unpacked weight, on any device; prepack.py and quantized.py have the
forms that only a CPU has kernels for, and prepack.py chooses among them.
"""

import torch
from torch import nn
from torch.nn.functional import linear

__all__ = ["HeldLinear", "PlainLinear", "held_bytes"]


class HeldLinear(nn.Module):
    """(..., in_features) to (..., out_features); gives back the dtype it is given.

    Weights are plain attributes where they are opaque, so that neither state_dict nor .to() finds
    them; `held_bytes` is what those take.
    """

    held_bytes: int = 0
    fp32_rows_max: int = 0
    """Up to how many rows of a bf16 shard may come, and go, unrounded at no cost."""


class PlainLinear(HeldLinear):
    """A linear over an unpacked weight: fp32, CPUs without bf16 kernels, and other devices."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return linear(rows, self.weight, self.bias)


def held_bytes(module: nn.Module) -> int:
    """Bytes of all weights below `module` as held: packed copies too, shared ones once."""
    packed = sum(part.held_bytes for part in module.modules() if isinstance(part, HeldLinear))
    plain = {parameter.data_ptr(): parameter.nbytes for parameter in module.parameters()}
    return packed + sum(plain.values())
