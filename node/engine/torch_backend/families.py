"""Which model families are served, and why the others are refused.

A family stands in `SERVED` when a test compares its shards, token for token, with the unsplit
model. Everything else is refused by name before a weight is read: a family whose forward pass does
more than our loop does would load without complaint and answer wrongly.
"""

from typing import Any

from node.engine.errors import ModelUnsupported

__all__ = ["SERVED", "refuse_unserved"]

SERVED = frozenset({"llama", "mistral", "mixtral", "phi3", "qwen2", "qwen3", "qwen3_moe"})

_LATENT = "latent attention (MLA)"
_LINEAR = "linear-attention or state-space layers, whose state is not rows"
_ROPES = "rotary embeddings per layer type"
_SCALED = "multipliers on the embedding, the residual stream or the logits"

MISSING: dict[str, str] = {
    "gemma2": "attention softcap",
    "gpt_oss": "attention sinks",
    **dict.fromkeys(("gemma3", "gemma3_text", "gemma4", "gemma4_text", "modernbert"), _ROPES),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "deepseek_v32", "minicpm3"), _LATENT),
    **dict.fromkeys(("qwen3_next", "qwen3_5", "kimi_linear", "mamba", "mamba2", "jamba"), _LINEAR),
    **dict.fromkeys(("falcon_h1", "lfm2", "nemotron_h", "bamba", "zamba2", "rwkv"), _LINEAR),
    **dict.fromkeys(("granite", "granitemoe", "cohere", "cohere2", "minicpm"), _SCALED),
}
"""What our loop lacks for families people are likely to try."""

ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})
"""`dynamic` and `longrope` change with the longest sequence of a batch: rows would not be
independent of their neighbours."""

LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})

_MUST_BE_UNSET: dict[str, str] = {
    "quantization_config": "its weights are stored quantized",
    "attn_logit_softcapping": "attention softcap",
    "final_logit_softcapping": "softcap on the logits",
    "embedding_multiplier": "a multiplier on the embedding",
    "residual_multiplier": "a multiplier on the residual stream",
    "logits_scaling": "a scale on the logits",
    "logit_scale": "a scale on the logits",
    "use_bidirectional_attention": "attention to later positions",
}
"""Settings that change the numbers and that our loop does not apply."""


def refuse_unserved(config: dict[str, Any]) -> str:
    """The family's name, if it and its settings are served; ModelUnsupported says what is not."""
    family = config.get("model_type")
    if not isinstance(family, str):
        raise ModelUnsupported("The model's config.json names no model_type.")
    if family not in SERVED:
        lack = MISSING.get(family, "a test of this family against the unsplit model")
        raise ModelUnsupported(
            f"The family '{family[:64]}' is not served: missing is {lack}.",
            hint=f"Served are {', '.join(sorted(SERVED))}.",
        )
    for setting, lack in _MUST_BE_UNSET.items():
        if config.get(setting) not in (None, False, 1.0):
            raise ModelUnsupported(f"This {family} model sets {setting}: {lack} is not served.")
    _refuse_rope(family, config)
    layer_types = config.get("layer_types") or []
    unknown = sorted({str(kind) for kind in layer_types} - LAYER_TYPES)
    if unknown:
        raise ModelUnsupported(f"This {family} model has layers of type {unknown[0][:64]}.")
    return family


def _refuse_rope(family: str, config: dict[str, Any]) -> None:
    for field in ("rope_parameters", "rope_scaling"):
        rope = config.get(field)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise ModelUnsupported(f"This {family} model's {field} is not a map.")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ROPE_TYPES:
            raise ModelUnsupported(
                f"This {family} model uses rope type '{str(kind)[:32]}', which depends on the "
                "batch or is not tested.",
                hint=f"Served are {', '.join(sorted(ROPE_TYPES))}.",
            )
