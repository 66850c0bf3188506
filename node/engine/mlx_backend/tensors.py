"""From the tensors that lie on disk to those that mlx_lm's classes hold.

The classes' own `sanitize` expects the whole model: some look only whether layer 0 needs it, which
a later span does not have. Everything here is lazy; nothing is read before it is evaluated.
"""

import re
from collections.abc import Mapping

import mlx.core as mx

from node.engine.errors import ShardMismatch
from node.engine.mlx_backend.config import ModelConfig

__all__ = ["adapt", "is_kept_exact"]

Tensors = dict[str, mx.array]

_EXPERT = re.compile(r"^(.*)\.experts\.(\d{1,4})\.(\w{1,16})\.weight$")
"""One expert's matrix: the block, the expert, the matrix."""

_MATRICES: Mapping[str, str] = {
    "w1": "gate_proj",
    "w2": "down_proj",
    "w3": "up_proj",
    **{name: name for name in ("gate_proj", "down_proj", "up_proj")},
}
"""Mixtral's names for the matrices of an expert, and everybody's."""

_EXPERT_COUNT = {
    "mixtral": "num_local_experts",
    "qwen3_moe": "num_experts",
    "deepseek_v3": "n_routed_experts",
}

_ROUTER_BIAS = ".gate.e_score_correction_bias"


def adapt(weights: Tensors, config: ModelConfig) -> Tensors:
    """Rename, stack and split. Raises ShardMismatch where an expert is missing."""
    if config.family in _EXPERT_COUNT:
        weights = _stack_experts(weights, config.fields[_EXPERT_COUNT[config.family]])
    if config.family == "deepseek_v3":
        weights = _split_latents(weights, config)
    return weights


def is_kept_exact(name: str) -> bool:
    """Whether the tensor stays in fp32 whatever the shard computes in, as in transformers."""
    return name.endswith(_ROUTER_BIAS)


def _stack_experts(weights: Tensors, count: int) -> Tensors:
    """(experts, out, in) per matrix, from one tensor an expert."""
    adapted: Tensors = {}
    found: dict[tuple[str, str], dict[int, mx.array]] = {}
    for name, array in weights.items():
        match = _EXPERT.match(name)
        if match is None or match[3] not in _MATRICES:
            adapted[name] = array
        else:
            found.setdefault((match[1], match[3]), {})[int(match[2])] = array
    for (block, matrix), experts in found.items():
        if missing := sorted(set(range(count)) - set(experts)):
            name = f"{block}.experts.{missing[0]}.{matrix}.weight"
            raise ShardMismatch(f"{len(missing)} tensors are missing, '{name}' among them.")
        stacked = mx.stack([experts[index] for index in range(count)])
        adapted[f"{block}.switch_mlp.{_MATRICES[matrix]}.weight"] = stacked
    return adapted


def _split_latents(weights: Tensors, config: ModelConfig) -> Tensors:
    """DeepSeek's kv_b_proj, (heads * (nope + v), rank), as mlx_lm absorbs it into q and output."""
    adapted: Tensors = {}
    heads, nope = config.fields["num_attention_heads"], config.fields["qk_nope_head_dim"]
    value = config.fields["v_head_dim"]
    for name, array in weights.items():
        block, _, last = name.rpartition(".self_attn.kv_b_proj")
        if last == ".weight" and block:
            if array.shape != (heads * (nope + value), config.key_dim):
                raise ShardMismatch(f"'{name}' has shape {array.shape}; the config asks otherwise.")
            parts = array.reshape(heads, nope + value, config.key_dim)
            adapted[f"{block}.self_attn.embed_q.weight"] = parts[:, :nope].swapaxes(-1, -2)
            adapted[f"{block}.self_attn.unembed_out.weight"] = parts[:, nope:]
        elif name.endswith(_ROUTER_BIAS):
            adapted[name] = _lifted(array)
        else:
            adapted[name] = array
    return adapted


def _lifted(bias: mx.array) -> mx.array:
    """The router's bias, raised by a constant where some is negative.

    mlx_lm gives the experts of groups that are out a score of 0, transformers minus infinity: the
    same only while every score (a sigmoid plus the bias) is positive. A constant added to all of
    them changes no choice, and the bias only chooses.
    """
    lowest = mx.minimum(bias.astype(mx.float32).min(), 0.0)
    return bias.astype(mx.float32) - lowest * 1.001
