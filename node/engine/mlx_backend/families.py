"""Which families mlx_lm's classes compute as transformers does, and what each class reads.

A family stands in `SERVED` when a test compares its shards, token for token, with the unsplit
model in transformers. mlx_lm's classes take fewer settings than transformers' do and pass over the
others without a word, so what a class does not read is refused by `config.py`. No mlx here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["MISSING", "SERVED", "Family"]

_ALL_ROPES = frozenset({"default", "linear", "llama3", "yarn"})
"""Rope scalings that mlx_lm computes as transformers does. `dynamic` and `longrope` change with
the longest sequence of a batch: rows would not be independent of their neighbours."""

_NO_SCALING = frozenset({"default"})


@dataclass(frozen=True, slots=True)
class Family:
    """What mlx_lm's class of one family reads from the config, beyond what all of them read."""

    needs: tuple[str, ...] = ()
    """Settings that must be numbers, or True or False; neither library's default is trusted."""
    reads_head_dim: bool = True
    """False where the class takes hidden_size / heads whatever the config says."""
    reads_attention_bias: bool = False
    reads_mlp_bias: bool = False
    reads_partial_rope: bool = False
    rope_types: frozenset[str] = _ALL_ROPES
    theta_default: float | None = 10_000.0
    """What transformers takes where a config names no rope_theta; None: it must be named."""
    activation: tuple[str, str] = ("hidden_act", "silu")
    """The setting, and the only value that the class computes."""
    ties: frozenset[bool] = frozenset({False, True})
    """Whether the LM head may be the embedding, or must."""
    is_tied_unless_said: bool = False
    masks_by_array: bool = False
    """Its attention cannot take the word `causal` for a mask."""
    folds_groups: bool = False
    """Its attention gives the query heads of one KV head an axis of their own, so does its mask."""


_GELU = ("hidden_activation", "gelu_pytorch_tanh")

SERVED: Mapping[str, Family] = MappingProxyType({
    "llama": Family(reads_attention_bias=True, reads_mlp_bias=True),
    "mistral": Family(),
    "qwen2": Family(reads_head_dim=False),
    "qwen3": Family(),
    "mixtral": Family(
        needs=("num_local_experts", "num_experts_per_tok"),
        reads_head_dim=False,
        rope_types=_NO_SCALING,
        theta_default=1_000_000.0,
    ),
    "qwen3_moe": Family(
        needs=(
            "num_experts", "num_experts_per_tok", "moe_intermediate_size", "decoder_sparse_step",
            "norm_topk_prob",
        ),
        rope_types=_NO_SCALING,
    ),
    "phi3": Family(reads_head_dim=False, reads_partial_rope=True, rope_types=_NO_SCALING),
    "gemma2": Family(
        needs=("head_dim", "query_pre_attn_scalar", "attn_logit_softcapping"),
        rope_types=_NO_SCALING,
        activation=_GELU,
        ties=frozenset({True}),
        is_tied_unless_said=True,
        masks_by_array=True,
        folds_groups=True,
    ),
    "gemma3_text": Family(
        needs=("head_dim", "query_pre_attn_scalar"),
        theta_default=None,
        activation=_GELU,
        is_tied_unless_said=True,
    ),
    "deepseek_v3": Family(
        needs=(
            "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim",
            "moe_intermediate_size", "n_routed_experts", "n_shared_experts", "n_group",
            "topk_group", "num_experts_per_tok", "norm_topk_prob", "routed_scaling_factor",
            "first_k_dense_replace",
        ),
        reads_attention_bias=True,
        rope_types=frozenset({"default", "yarn"}),
        ties=frozenset({False}),
        masks_by_array=True,
    ),
})  # fmt: skip

MISSING: Mapping[str, str] = MappingProxyType(
    {
        "gpt_oss": "a yarn rope whose range is not truncated, which mlx_lm's class lacks",
        "gemma3": "the image tower; its text part is served as gemma3_text",
        "gemma": "a test of this family against the unsplit model",
    }
)
"""What is lacking for families that people are likely to try."""
