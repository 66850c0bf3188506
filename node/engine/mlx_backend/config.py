"""config.json, as mlx_lm must be told it: every setting explicit, in the place it looks at.

transformers 5 writes rope settings under `rope_parameters`, which most of mlx_lm's families do
not read: they would fall back to other settings without a word. Defaults differ between the two
libraries as well. So nothing is left to a default, and a setting that mlx_lm would ignore is
refused by name. No mlx here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from node.engine.errors import ModelUnsupported

__all__ = ["SERVED", "ModelConfig", "normalize"]

SERVED = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Families with a test against the unsplit model in transformers."""

ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})
"""Rope scalings that mlx_lm computes as transformers does."""

MISTRAL_WINDOW = 4096
"""What transformers takes where a Mistral config names no sliding_window."""

_YARN_FIELDS = frozenset({
    "rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings",
    "beta_fast", "beta_slow",
})  # fmt: skip
"""What mlx_lm reads of a yarn rope and computes as transformers does."""

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
    "partial_rotary_factor": "a partial rotary embedding",
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model's settings. `fields` is the map that mlx_lm is given."""

    family: str
    fields: Mapping[str, Any]
    windows: tuple[int | None, ...]
    """Per layer, how many positions a row sees, itself included; None for all."""
    is_tied: bool
    """The LM head is the embedding."""

    @property
    def layers(self) -> int:
        return len(self.windows)


def normalize(config: Mapping[str, Any]) -> ModelConfig:
    """Settings from a config.json of transformers 4 or 5; raises ModelUnsupported by name."""
    family = config.get("model_type")
    if family not in SERVED:
        raise ModelUnsupported(
            f"The family '{str(family)[:64]}' is not served by the MLX backend.",
            hint=f"Served are {', '.join(sorted(SERVED))}.",
        )
    _refuse(str(family), config)
    theta, scaling = _rope(str(family), config)
    heads = config["num_attention_heads"]
    fields = {
        **{name: config[name] for name in _REQUIRED},
        "model_type": family,
        "num_key_value_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim") or config["hidden_size"] // heads,
        "attention_bias": bool(config.get("attention_bias", False)) and family == "llama",
        "mlp_bias": bool(config.get("mlp_bias", False)) and family == "llama",
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "rope_theta": theta,
        "rope_scaling": scaling,
    }
    return ModelConfig(
        str(family), fields, _windows(str(family), config), fields["tie_word_embeddings"]
    )


def _refuse(family: str, config: Mapping[str, Any]) -> None:
    """Whatever mlx_lm's class would lack or read otherwise than transformers does."""
    required = _REQUIRED if family == "llama" else (*_REQUIRED, "num_key_value_heads")
    for name in required:
        if not isinstance(config.get(name), int | float) or config[name] <= 0:
            raise ModelUnsupported(f"This {family} model's config.json does not say {name}.")
    for name, lack in _MUST_BE_UNSET.items():
        if config.get(name) not in (None, False, 1.0):
            raise ModelUnsupported(f"This {family} model sets {name}: {lack} is not served.")
    if config.get("hidden_act", "silu") != "silu":
        raise ModelUnsupported(f"This {family} model's hidden_act is not silu.")
    if family != "llama" and config.get("attention_bias"):
        raise ModelUnsupported(f"This {family} model has an attention_bias, which MLX lacks.")
    own_head_dim = config["hidden_size"] // config["num_attention_heads"]
    if family == "qwen2" and config.get("head_dim") not in (None, own_head_dim):
        raise ModelUnsupported("This qwen2 model has a head_dim of its own, which MLX lacks.")


def _rope(family: str, config: Mapping[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """Theta, and the scaling (None where there is none)."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ModelUnsupported(f"This {family} model's rope settings are not a map.")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ROPE_TYPES or rope.get("partial_rotary_factor") not in (None, 1.0):
        raise ModelUnsupported(
            f"This {family} model uses rope type '{str(kind)[:32]}' in a form not served by MLX.",
            hint=f"Served are {', '.join(sorted(ROPE_TYPES))}.",
        )
    if kind == "yarn" and (unread := sorted(set(rope) - _YARN_FIELDS)):
        raise ModelUnsupported(f"This {family} model's yarn rope sets {unread[0][:32]}.")
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    if kind == "default":
        return theta, None
    scaling = {**rope, "rope_type": kind}
    if kind in (
        "llama3",
        "yarn",
    ):  # transformers takes the model's context where the original is not named
        scaling.setdefault("original_max_position_embeddings", config["max_position_embeddings"])
    return theta, scaling


def _windows(family: str, config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Each layer's window by the rules of transformers' classes, not of mlx_lm's."""
    layers = int(config["num_hidden_layers"])
    if family == "mistral":
        return (config.get("sliding_window", MISTRAL_WINDOW),) * layers
    if family == "llama" or not config.get("use_sliding_window"):
        return (None,) * layers
    window = config.get("sliding_window", MISTRAL_WINDOW)
    kinds = config.get("layer_types") or [
        "sliding_attention" if index >= config.get("max_window_layers", 28) else "full_attention"
        for index in range(layers)
    ]
    if len(kinds) != layers or not set(kinds) <= {"sliding_attention", "full_attention"}:
        raise ModelUnsupported(f"This {family} model's layer_types are not served.")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)
