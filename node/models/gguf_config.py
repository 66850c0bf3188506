"""GGUF metadata and tensor names of Llama-like models, as Hugging Face's config.json has them.

What llama.cpp's converter did is undone here: names, the order of query and key rows (it rotates
neighbours where transformers rotates halves), and llama3 rope scaling, of which the file keeps
only the resulting factors.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from node.engine.errors import ModelUnsupported
from node.models.gguf_file import Value

__all__ = ["ARCHITECTURES", "hub_config", "hub_name", "is_permuted", "unpermute"]

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""GGUF's architecture, which is the family's model_type too. Mistral is written as llama."""

_ENDS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER = re.compile(r"blk\.(\d{1,4})\.([a-z_]+)\.(weight|bias)")
ROPE_FREQS = "rope_freqs.weight"

_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3_ORIGINAL_CONTEXT = 8192
LLAMA3_TOLERANCE = 1e-3


def hub_name(name: str) -> str | None:
    """A tensor's name in transformers; None for one that belongs into the config."""
    if name == ROPE_FREQS:
        return None
    if name in _ENDS:
        return _ENDS[name]
    match = _LAYER.fullmatch(name)
    part = _PARTS.get(match[2]) if match else None
    if match is None or part is None:
        raise ModelUnsupported(f"The file's tensor '{name[:64]}' has no place in this family.")
    return f"model.layers.{int(match[1])}.{part}.{match[3]}"


def is_permuted(architecture: str, name: str) -> bool:
    """Whether the converter has reordered the tensor's rows."""
    return architecture == "llama" and re.search(r"\.attn_[qk]\.(weight|bias)$", name) is not None


def unpermute(rows: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Rows of a head from pairs (0, half), (1, half + 1) … back to first half, second half."""
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def hub_config(
    metadata: Mapping[str, Value],
    *,
    vocabulary_size: int,
    is_tied: bool,
    rope_freqs: Sequence[float] | None,
) -> dict[str, Any]:
    """config.json. Raises ModelUnsupported for other architectures and missing settings."""
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise ModelUnsupported(
            f"A GGUF file of '{str(architecture)[:64]}' is not read.",
            hint=f"Read are {', '.join(sorted(ARCHITECTURES))}; or pull the model from the hub.",
        )
    fields = _Fields(metadata, architecture)
    if fields.number("expert_count", 0):
        raise ModelUnsupported(
            "A GGUF file with experts is not read.", hint="Pull it from the hub."
        )
    hidden, heads = fields.integer("embedding_length"), fields.integer("attention.head_count")
    head_dim = int(fields.number("attention.key_length", hidden // heads))
    config = {
        "architectures": [ARCHITECTURES[architecture]],
        "model_type": architecture,
        "vocab_size": vocabulary_size,
        "hidden_size": hidden,
        "intermediate_size": fields.integer("feed_forward_length"),
        "num_hidden_layers": fields.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": int(fields.number("attention.head_count_kv", heads)),
        "head_dim": head_dim,
        "max_position_embeddings": fields.integer("context_length"),
        "rms_norm_eps": fields.number("attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu",
        "tie_word_embeddings": is_tied,
        "rope_parameters": _rope(fields, head_dim, rope_freqs),
        "dtype": "float16",
    }
    if architecture == "qwen2":  # its class has no head_dim of its own
        del config["head_dim"]
    for field, key in (("bos_token_id", "bos"), ("eos_token_id", "eos")):
        token = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(token, int):
            config[field] = token
    return config


class _Fields:
    """The numbers under the architecture's own prefix."""

    def __init__(self, metadata: Mapping[str, Value], architecture: str) -> None:
        self._metadata = metadata
        self._prefix = architecture

    def get(self, key: str) -> Value | None:
        return self._metadata.get(f"{self._prefix}.{key}")

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise ModelUnsupported(f"The GGUF file does not say {self._prefix}.{key} as a number.")
        return value

    def integer(self, key: str) -> int:
        value = self.number(key)
        if value != int(value) or value == 0:
            raise ModelUnsupported(f"The GGUF file's {self._prefix}.{key} is {value}.")
        return int(value)


def _rope(fields: _Fields, head_dim: int, freqs: Sequence[float] | None) -> dict[str, Any]:
    theta = float(fields.number("rope.freq_base", 10_000.0))
    if fields.number("rope.dimension_count", head_dim) != head_dim:
        raise ModelUnsupported("A GGUF file with a partial rotary embedding is not read.")
    kind = fields.get("rope.scaling.type") or "none"
    if freqs is not None:
        return _llama3(theta, head_dim, freqs)
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    if kind == "linear":
        factor = fields.number("rope.scaling.factor")
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    if kind == "yarn":
        return {
            "rope_type": "yarn",
            "rope_theta": theta,
            "factor": fields.number("rope.scaling.factor"),
            "original_max_position_embeddings": fields.integer(
                "rope.scaling.original_context_length"
            ),
        }
    raise ModelUnsupported(f"The GGUF file's rope scaling '{str(kind)[:32]}' is not read.")


def _llama3(theta: float, head_dim: int, freqs: Sequence[float]) -> dict[str, Any]:
    """The settings whose factors the file's are; refused where llama3's rule does not give them."""
    factor = max(freqs, default=0.0)
    expected = []
    for index in range(head_dim // 2):
        wavelength = 2 * math.pi * theta ** (2 * index / head_dim)
        share = LLAMA3_ORIGINAL_CONTEXT / wavelength
        low, high = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"]
        smooth = min(max((share - low) / (high - low), 0.0), 1.0)
        expected.append(1.0 / ((1 - smooth) / factor + smooth) if factor else 0.0)
    if len(freqs) != len(expected) or not np.allclose(freqs, expected, rtol=LLAMA3_TOLERANCE):
        raise ModelUnsupported("The GGUF file's rope factors are not those of Llama 3.")
    return {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "original_max_position_embeddings": LLAMA3_ORIGINAL_CONTEXT,
        **_LLAMA3,
    }
