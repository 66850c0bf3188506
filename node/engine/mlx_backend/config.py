"""config.json, as mlx_lm must be told it: every setting explicit, in the place it looks at.

Defaults differ between mlx_lm and transformers, and mlx_lm's classes read fewer settings. So
nothing is left to a default of theirs, and a setting that mlx_lm would ignore is refused by name.
No mlx here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from node.engine.errors import ModelUnsupported
from node.engine.mlx_backend.families import MISSING, SERVED, Family
from node.engine.mlx_backend.rope import RopeSettings, read_rope
from node.engine.mlx_backend.windows import full_pattern, read_windows

__all__ = ["ModelConfig", "normalize"]

_REQUIRED = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
)

_MUST_BE_UNSET: dict[str, str] = {
    "quantization": "its weights are stored quantized",
    "quantization_config": "its weights are stored quantized",
    "use_bidirectional_attention": "attention to later positions",
}

_DEEPSEEK_ONLY = {
    "moe_layer_freq": 1,
    "rope_interleave": True,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
}
"""What deepseek_v3 means; transformers knows no other value, mlx_lm's class might."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model's settings. `fields` is the map that mlx_lm is given."""

    family: str
    fields: Mapping[str, Any]
    windows: tuple[int | None, ...]
    """Per layer, how many positions a row sees, itself included; None for all."""
    is_tied: bool
    """The LM head is the embedding."""
    kv_heads: int
    key_dim: int
    value_dim: int
    """KV numbers of one token in one layer: kv_heads * (key_dim + value_dim)."""
    embed_scale: float | None = None
    """Embeddings are multiplied by it, rounded to the compute dtype first."""
    logit_cap: float | None = None
    """Logits become cap * tanh(logits / cap)."""

    @property
    def layers(self) -> int:
        return len(self.windows)


def normalize(config: Mapping[str, Any]) -> ModelConfig:
    """Settings from a config.json of transformers 4 or 5; raises ModelUnsupported by name."""
    name = config.get("model_type")
    family = SERVED.get(name) if isinstance(name, str) else None
    if not isinstance(name, str) or family is None:
        lack = MISSING.get(str(name), "a test of this family against the unsplit model")
        raise ModelUnsupported(
            f"The family '{str(name)[:64]}' is not served by the MLX backend: missing is {lack}.",
            hint=f"Served are {', '.join(sorted(SERVED))}.",
        )
    if name == "qwen3_moe" and "num_experts" not in config:
        # transformers 5 writes its own name for the same setting
        config = {**config, "num_experts": config.get("num_local_experts")}
    _refuse(name, family, config)
    rope = read_rope(name, family, config)
    tie = bool(config.get("tie_word_embeddings", family.is_tied_unless_said))
    if tie not in family.ties:
        raise ModelUnsupported(f"This {name} model has tie_word_embeddings {tie}.")
    fields = _fields(name, family, config, rope, tie=tie)
    is_latent = name == "deepseek_v3"
    is_gemma = name in ("gemma2", "gemma3_text")
    return ModelConfig(
        name,
        fields,
        read_windows(name, config),
        tie,
        1 if is_latent else fields["num_key_value_heads"],
        fields["kv_lora_rank"] if is_latent else fields["head_dim"],
        fields["qk_rope_head_dim"] if is_latent else fields["head_dim"],
        config["hidden_size"] ** 0.5 if is_gemma else None,
        config.get("final_logit_softcapping") if is_gemma else None,
    )


def _fields(
    name: str, family: Family, config: Mapping[str, Any], rope: RopeSettings, *, tie: bool
) -> dict[str, Any]:
    """What the class of mlx_lm is built from; it passes over names it does not know."""
    heads = config["num_attention_heads"]
    fields = {
        **{key: config[key] for key in (*_REQUIRED, *family.needs)},
        "model_type": name,
        "num_key_value_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim") or config["hidden_size"] // heads,
        "attention_bias": bool(config.get("attention_bias", False)),
        "mlp_bias": bool(config.get("mlp_bias", False)),
        "tie_word_embeddings": tie,
        "rope_theta": rope.theta,
        "rope_scaling": rope.scaling,
        "partial_rotary_factor": rope.rotated_share,
    }
    if name == "qwen3_moe":
        fields["mlp_only_layers"] = _layer_list(name, config)
    if name == "gemma3_text":
        fields["rope_local_base_freq"] = rope.local_theta
        fields["sliding_window_pattern"] = full_pattern(read_windows(name, config))
    if name == "deepseek_v3":
        fields |= {**_DEEPSEEK_ONLY, "q_lora_rank": config.get("q_lora_rank")}
    return fields


def _refuse(name: str, family: Family, config: Mapping[str, Any]) -> None:
    """Whatever mlx_lm's class would lack or read otherwise than transformers does."""
    may_be_zero = ("first_k_dense_replace", "norm_topk_prob")
    required = _REQUIRED if name == "llama" else (*_REQUIRED, "num_key_value_heads")
    for key in (*required, *family.needs):
        value = config.get(key)
        if not isinstance(value, int | float) or (value <= 0 and key not in may_be_zero):
            raise ModelUnsupported(f"This {name} model's config.json does not say {key}.")
    for key, lack in _MUST_BE_UNSET.items():
        if config.get(key):
            raise ModelUnsupported(f"This {name} model sets {key}: {lack} is not served.")
    key, only = family.activation
    if config.get(key, only) != only:
        raise ModelUnsupported(f"This {name} model's {key} is not {only}.")
    for key, is_read in (
        ("attention_bias", family.reads_attention_bias),
        ("mlp_bias", family.reads_mlp_bias),
        ("attn_logit_softcapping", "attn_logit_softcapping" in family.needs),
        ("final_logit_softcapping", name in ("gemma2", "gemma3_text")),
    ):
        if config.get(key) and not is_read:
            raise ModelUnsupported(f"This {name} model has {key}, which the MLX backend lacks.")
    own_head_dim = config["hidden_size"] // config["num_attention_heads"]
    if not family.reads_head_dim and config.get("head_dim") not in (None, own_head_dim):
        raise ModelUnsupported(f"This {name} model has a head_dim of its own, which MLX lacks.")
    if name == "deepseek_v3":
        _refuse_deepseek(config)


def _refuse_deepseek(config: Mapping[str, Any]) -> None:
    for key, only in _DEEPSEEK_ONLY.items():
        if config.get(key, only) not in (None, only):
            raise ModelUnsupported(f"This deepseek_v3 model's {key} is not {only}.")
    if config["num_experts_per_tok"] == 1 and config["norm_topk_prob"]:
        # mlx_lm leaves a single expert's weight as it is; transformers makes it one
        raise ModelUnsupported("This deepseek_v3 model has norm_topk_prob with a single expert.")


def _layer_list(name: str, config: Mapping[str, Any]) -> list[int]:
    layers = config.get("mlp_only_layers") or []
    if not isinstance(layers, list) or not all(isinstance(layer, int) for layer in layers):
        raise ModelUnsupported(f"This {name} model's mlp_only_layers is no list of layers.")
    return layers
