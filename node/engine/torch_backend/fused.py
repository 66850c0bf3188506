"""The decoder layer that Llama, Mistral, Qwen2 and Qwen3 share, written for few, large calls.

It computes what the families' own transformers layers compute, from their loaded weights: query,
key and value are one linear, gate and up another, and the rotation of queries and keys one
operation. `tests/node/engine/test_torch_layers.py` compares the two forms layer by layer. Families
with anything more in a layer run through `FamilyStack` in shard.py.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import rms_norm

from node.engine.torch_backend.attention import PackedStep
from node.engine.torch_backend.linear import HeldLinear
from node.engine.torch_backend.prepack import LinearMaker

__all__ = ["FUSED_FAMILIES", "FusedStack"]

FUSED_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})


class FusedStack(nn.Module):
    """A span's layers, fused. Takes over the given layers' weights and empties them."""

    def __init__(
        self, family: str, layers: Sequence[Any], rotary: nn.Module, maker: LinearMaker
    ) -> None:
        super().__init__()
        self._rotary = rotary
        self._layers = nn.ModuleList()
        for layer in layers:
            self._layers.append(_FusedLayer(family, layer, maker))
            # Weights are copied layer by layer: the whole span never lies in memory twice.
            layer.to("meta")
        linears = (part for part in self.modules() if isinstance(part, HeldLinear))
        self._fp32_rows_max = min((part.fp32_rows_max for part in linears), default=0)

    def forward(
        self,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        packed_step: PackedStep,
        layers: slice,
    ) -> torch.Tensor:
        """Run packed rows (N, hidden_size) at positions (N,) int64 through those of its layers.

        Few rows of bf16 come back as fp32 where the linears keep them so: their residual stream
        is then never rounded, and the casts round each linear are saved.
        """
        if len(hidden) <= self._fp32_rows_max:
            hidden = hidden.float()
        cos, sin = self._rotary(hidden, position_ids=positions.unsqueeze(0))
        cos, sin = cos[0].unsqueeze(1), sin[0].unsqueeze(1)
        # The rotation swaps the halves of a head and negates the second on its way to the first.
        half = sin.shape[-1] // 2
        signed_sin = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
        for layer in list(self._layers)[layers]:
            hidden = layer(hidden, cos, signed_sin, packed_step)
        return hidden


class _FusedLayer(nn.Module):
    """Attention and MLP of one layer, each with its norm before and its residual around."""

    def __init__(self, family: str, layer: Any, maker: LinearMaker) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self._index: int = attention.layer_idx
        self._scaling: float = attention.scaling
        self._window = _window(family, attention)
        self._head_dim: int = attention.head_dim
        self._heads = attention.q_proj.out_features // attention.head_dim
        self._kv_heads = attention.k_proj.out_features // attention.head_dim
        self._attention_norm = _Norm(layer.input_layernorm)
        self._qkv = _join(maker, attention.q_proj, attention.k_proj, attention.v_proj)
        self._query_norm = _Norm(attention.q_norm) if hasattr(attention, "q_norm") else None
        self._key_norm = _Norm(attention.k_norm) if hasattr(attention, "k_norm") else None
        self._out = _join(maker, attention.o_proj)
        self._mlp_norm = _Norm(layer.post_attention_layernorm)
        self._gate_up = _join(maker, mlp.gate_proj, mlp.up_proj)
        self._down = _join(maker, mlp.down_proj)
        self._activation = mlp.act_fn

    def forward(
        self,
        hidden: torch.Tensor,
        cos: torch.Tensor,
        signed_sin: torch.Tensor,
        packed_step: PackedStep,
    ) -> torch.Tensor:
        """(N, hidden_size) to the same, in its dtype; cos and signed_sin (N, 1, head_dim)."""
        attended = self._attend(self._attention_norm(hidden), cos, signed_sin, packed_step)
        hidden = hidden + self._out(attended)
        gate, up = self._gate_up(self._mlp_norm(hidden)).chunk(2, dim=-1)
        return hidden + self._down(self._activation(gate) * up)

    def _attend(
        self,
        rows: torch.Tensor,
        cos: torch.Tensor,
        signed_sin: torch.Tensor,
        packed_step: PackedStep,
    ) -> torch.Tensor:
        heads, kv_heads = self._heads, self._kv_heads
        projected = self._qkv(rows).view(-1, heads + 2 * kv_heads, self._head_dim)
        rotated = projected[:, : heads + kv_heads]
        if self._query_norm is not None and self._key_norm is not None:
            query = self._query_norm(rotated[:, :heads])
            rotated = torch.cat((query, self._key_norm(rotated[:, heads:])), dim=1)
        swapped = rotated.roll(self._head_dim // 2, dims=-1)
        rotated = torch.addcmul(rotated * cos, swapped, signed_sin)
        attended = packed_step.attend(
            self._index,
            rotated[:, :heads],
            rotated[:, heads:],
            projected[:, heads + kv_heads :],
            scaling=self._scaling,
            window=self._window,
        )
        return attended.reshape(-1, heads * self._head_dim)


class _Norm(nn.Module):
    """RMS norm over the last dimension; the square sum is in fp32.

    torch has a kernel for it on CUDA. On a CPU its `rms_norm` is seven operations, and after the
    weights have gone through the caches each costs several times what it does alone: written out
    in four, a whole step is 1.5 % shorter.
    """

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight.detach().clone(), requires_grad=False)
        self._fp32_weight = self.weight.float()
        self._epsilon: float = norm.variance_epsilon
        self._added = self._fp32_weight.new_tensor(self._epsilon)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        if rows.device.type != "cpu":
            weight = self.weight if rows.dtype is self.weight.dtype else self._fp32_weight
            return rms_norm(rows, weight.shape, weight, self._epsilon)
        wide = rows.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = torch.addcmul(self._added, length, length, value=1 / rows.shape[-1]).rsqrt_()
        return (wide * scale).mul_(self._fp32_weight).to(rows.dtype)


def _join(maker: LinearMaker, *linears: nn.Linear) -> HeldLinear:
    return maker.make([part.weight for part in linears], [part.bias for part in linears])


def _window(family: str, attention: Any) -> int | None:
    """How many rows a layer sees, itself included, or None for all: as its own class decides."""
    match family:
        case "mistral":
            window = attention.config.sliding_window
        case "qwen2" | "qwen3":
            window = attention.sliding_window
        case _:
            window = None
    return None if window is None else int(window)
