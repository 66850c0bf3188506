"""Weight-only int8 and int4, quantized by MLX: groups of 64 inputs, each a scale and a bias.

Only linears, a mixture's experts among them. Embeddings, norms, routers and whatever rows, keys and
values are computed in stay bf16: a router is small, and choosing another expert is no small error.
MLX's CPU kernels sum in bf16, so int8 is less exact there than its weights are.
"""

from typing import Any

import mlx.nn as nn
from mlx_lm.models.mla import MultiLinear
from mlx_lm.models.switch_layers import SwitchLinear

from node.engine.base import ComputeDtype
from node.engine.errors import ModelUnsupported

__all__ = ["BITS", "GROUP_INPUTS", "quantize"]

BITS = {ComputeDtype.INT8: 8, ComputeDtype.INT4: 4}

GROUP_INPUTS = 64

_ROUTERS = (".mlp.gate", ".block_sparse_moe.gate")


def quantize(model: Any, dtype: ComputeDtype) -> None:
    """Replace the model's linears, one after the other; does nothing for fp32 and bf16.

    Raises ModelUnsupported where a linear's inputs are no multiple of 64.
    """
    if dtype not in BITS:
        return
    nn.quantize(model, GROUP_INPUTS, BITS[dtype], class_predicate=_is_linear)


def _is_linear(path: str, module: nn.Module) -> bool:
    if not isinstance(module, nn.Linear | SwitchLinear | MultiLinear) or path.endswith(_ROUTERS):
        return False
    inputs = module.weight.shape[-1]
    if inputs % GROUP_INPUTS:
        raise ModelUnsupported(
            f"'{path}' has {inputs} inputs, no multiple of {GROUP_INPUTS}: it has no int8 or int4.",
            hint="Load the shard in bf16.",
        )
    return True
