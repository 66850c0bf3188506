"""Which model families are served, and why the others are refused.

A family stands in `SERVED` when a test compares its shards, token for token, with the unsplit
model. Everything else is refused by name before a weight is read: a family whose forward pass does
more than our loop does would load without complaint and answer wrongly.
"""

from typing import Any

from node.engine.errors import ModelUnsupported

__all__ = [
    "LATENT_FAMILIES",
    "MISSING",
    "ROPE_TYPES",
    "SERVED",
    "context_of",
    "refuse_unserved",
    "unpack_stored",
]

LATENT_FAMILIES = frozenset({"deepseek_v2", "deepseek_v3"})
"""Latent attention (MLA): see latent.py."""

SERVED = LATENT_FAMILIES | {
    "cohere2",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm4_moe",
    "gpt_oss",
    "granite",
    "llama",
    "mistral",
    "mixtral",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "smollm3",
}

_LATENT = "a test of its latent attention against the unsplit model"
_LINEAR = "linear-attention or state-space layers, whose state is not rows"
_SCALED = "multipliers on the embedding, the residual stream or the logits"
_SPARSE = "sparse attention, which chooses the rows it sees"
_VISION = "the tower for images; only a text model's own config is served"

MISSING: dict[str, str] = {
    **dict.fromkeys(("gemma3", "gemma3n", "gemma4", "llama4", "mistral3", "qwen2_5_vl"), _VISION),
    **dict.fromkeys(("minicpm3", "longcat_flash", "glm4_moe_lite"), _LATENT),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa"), _SPARSE),
    **dict.fromkeys(("qwen3_next", "qwen3_5", "kimi_linear", "mamba", "mamba2", "jamba"), _LINEAR),
    **dict.fromkeys(("falcon_h1", "lfm2", "nemotron_h", "bamba", "zamba2", "rwkv"), _LINEAR),
    **dict.fromkeys(("granitemoe", "cohere", "minicpm"), _SCALED),
}
"""What our loop lacks for families people are likely to try."""

ROPE_TYPES = frozenset({"default", "dynamic", "linear", "llama3", "longrope", "yarn"})
"""`dynamic` and `longrope` are served up to the length first trained for: see `context_of`."""

LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})

_MUST_BE_UNSET: dict[str, str] = {
    "attn_logit_softcapping": "attention softcap",
    "final_logit_softcapping": "softcap on the logits",
    "embedding_multiplier": "a multiplier on the embedding",
    "residual_multiplier": "a multiplier on the residual stream",
    "logits_scaling": "a scale on the logits",
    "logit_scale": "a scale on the logits",
    "use_bidirectional_attention": "attention to later positions",
}
"""Settings that change the numbers and that our loop does not apply."""

_APPLIED: dict[str, frozenset[str]] = {
    "cohere2": frozenset({"logit_scale"}),
    "gemma2": frozenset({"attn_logit_softcapping", "final_logit_softcapping"}),
    "gemma3_text": frozenset({"final_logit_softcapping"}),
    "granite": frozenset({"embedding_multiplier", "residual_multiplier", "logits_scaling"}),
}
"""Those of them that it does apply, by family."""


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
    for setting in _MUST_BE_UNSET.keys() - _APPLIED.get(family, frozenset()):
        lack = _MUST_BE_UNSET[setting]
        if config.get(setting) not in (None, False, 1.0):
            raise ModelUnsupported(f"This {family} model sets {setting}: {lack} is not served.")
    _refuse_quantized(family, config)
    _refuse_rope(family, config)
    layer_types = config.get("layer_types") or []
    unknown = sorted({str(kind) for kind in layer_types} - LAYER_TYPES)
    if unknown:
        raise ModelUnsupported(f"This {family} model has layers of type {unknown[0][:64]}.")
    return family


def unpack_stored(config: Any) -> None:
    """Let from_pretrained unpack weights stored in MXFP4 into the compute dtype, on any machine.

    `config` is transformers'. Without this it would look for kernels that only some GPUs have.
    """
    stored = getattr(config, "quantization_config", None)
    if stored is not None:
        config.quantization_config = {**stored, "dequantize": True}


def context_of(config: Any) -> int:
    """How many tokens a sequence may have; `config` is transformers'.

    `longrope` and `dynamic` turn every row of a sequence otherwise once it passes the length they
    were first trained for. Rows that are cached, and rows of other sequences in the batch, could
    not follow; up to that length nothing changes, and the tokens are those of the unsplit model.
    """
    context = int(config.max_position_embeddings)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        return min(context, int(rope["original_max_position_embeddings"]))
    return context


def _refuse_quantized(family: str, config: dict[str, Any]) -> None:
    stored = config.get("quantization_config")
    if stored is None:
        return
    method = stored.get("quant_method") if isinstance(stored, dict) else None
    if family != "gpt_oss" or method != "mxfp4":
        raise ModelUnsupported(
            f"This {family} model's weights are stored quantized ('{str(method)[:32]}'): missing "
            "is a way to unpack them.",
            hint="Take the model's bf16 weights; a node quantizes them itself if asked to.",
        )


def _refuse_rope(family: str, config: dict[str, Any]) -> None:
    for field in ("rope_parameters", "rope_scaling"):
        rope = config.get(field)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise ModelUnsupported(f"This {family} model's {field} is not a map.")
        # Some families have one map for each type of layer.
        by_layer_type = [part for name, part in rope.items() if name in LAYER_TYPES]
        for part in by_layer_type or [rope]:
            _refuse_rope_type(family, part, nested=bool(by_layer_type))


def _refuse_rope_type(family: str, rope: object, *, nested: bool) -> None:
    if not isinstance(rope, dict):
        raise ModelUnsupported(f"This {family} model has a layer type whose rope is not a map.")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ROPE_TYPES or (nested and kind in ("dynamic", "longrope")):
        raise ModelUnsupported(
            f"This {family} model uses rope type '{str(kind)[:32]}', which is not tested.",
            hint=f"Served are {', '.join(sorted(ROPE_TYPES))}.",
        )
