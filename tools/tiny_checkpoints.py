"""Make random checkpoints of any family: `python tools/tiny_checkpoints.py FAMILY DIRECTORY`.

The weights mean nothing; the layout is that of a real model: several weight files, an index, a
config of the family's own, and the tokenizer of the small trained model. Tests use them to compare
a model in pieces with the unsplit one, benchmarks to have something of a known size.

The tiny families have a wider spread (`initializer_range`) than a real model at birth,
because with the usual one every layer is nearly the identity and a lost layer would hardly be seen.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

__all__ = ["FAMILIES", "Family", "make_checkpoint"]

TOKENIZER_DIRECTORY = Path(__file__).parents[1] / "node" / "assets" / "piecework-tiny"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
SLIDING_WINDOW = 64
VECTOR_SPREAD = 0.1
GEMMA_EMBEDDING = 0.1  # its scaled, tied embedding would otherwise repeat the last token for ever


@dataclass(frozen=True, slots=True)
class Family:
    """How a family differs from COMMON: its transformers model type and config fields."""

    model_type: str
    fields: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    layers: int = 6
    dtype: str = "float32"
    max_shard_size: str = "100KB"
    embedding_factor: float = 1.0
    """What the embedding's random values are multiplied with."""


COMMON: Mapping[str, Any] = MappingProxyType({
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": [4, 1],
    "pad_token_id": 1,
})  # fmt: skip
LLAMA3_ROPE: Mapping[str, Any] = MappingProxyType({
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
})  # fmt: skip
YARN_ROPE: Mapping[str, Any] = MappingProxyType({
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 512,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
})  # fmt: skip

LATENT: Mapping[str, Any] = MappingProxyType({
    "num_key_value_heads": 4,
    "kv_lora_rank": 24,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 40,
    "moe_intermediate_size": 64,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
})  # fmt: skip

FAMILIES: Mapping[str, Family] = MappingProxyType({
    "llama": Family("llama", {
        "tie_word_embeddings": True,
        "rope_parameters": {**LLAMA3_ROPE, "original_max_position_embeddings": 512},
    }),
    "mistral": Family("mistral", {"sliding_window": SLIDING_WINDOW}),
    "qwen2": Family("qwen2", {"tie_word_embeddings": True}),
    "qwen3": Family("qwen3"),
    "phi3": Family("phi3"),
    "gemma2": Family("gemma2", {
        "tie_word_embeddings": True,
        "sliding_window": SLIDING_WINDOW,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    }, embedding_factor=GEMMA_EMBEDDING),
    "gemma3_text": Family("gemma3_text", {
        "tie_word_embeddings": True,
        "sliding_window": SLIDING_WINDOW,
        "query_pre_attn_scalar": 16,
        "sliding_window_pattern": 3,
    }, embedding_factor=GEMMA_EMBEDDING),
    "mixtral": Family("mixtral", {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "qwen3_moe": Family("qwen3_moe", {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "norm_topk_prob": True,
    }),
    "deepseek_v2": Family("deepseek_v2", {
        **LATENT,
        "q_lora_rank": None,
        "topk_method": "greedy",
    }),
    "deepseek_v3": Family("deepseek_v3", {
        **LATENT,
        "q_lora_rank": 32,
        "n_group": 2,
        "topk_group": 1,
    }),
    "gpt_oss": Family("gpt_oss", {
        "sliding_window": SLIDING_WINDOW,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "rope_parameters": dict(YARN_ROPE),
    }),
    "cohere2": Family("cohere2", {
        "tie_word_embeddings": True,
        "sliding_window": SLIDING_WINDOW,
        "logit_scale": 0.25,
    }),
    "gemma": Family("gemma", {"tie_word_embeddings": True}, embedding_factor=GEMMA_EMBEDDING),
    "glm4_moe": Family("glm4_moe", {
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "first_k_dense_replace": 1,
        "use_qk_norm": True,
        "attention_bias": True,
    }),
    "granite": Family("granite", {
        "tie_word_embeddings": True,
        "embedding_multiplier": 6.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.3,
        "logits_scaling": 4.0,
    }),
    "smollm3": Family("smollm3"),
    "llama-0.5b": Family("llama", {
        "vocab_size": 32768,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "initializer_range": 0.02,
        "max_position_embeddings": 131072,
        "rope_parameters": {**LLAMA3_ROPE, "original_max_position_embeddings": 8192},
    }, layers=28, dtype="bfloat16", max_shard_size="250MB"),
})  # fmt: skip


def make_checkpoint(
    directory: Path,
    family: str = "llama",
    *,
    layers: int | None = None,
    seed: int = 0,
    dtype: str | None = None,
    max_shard_size: str | None = None,
    **overrides: Any,
) -> Path:
    """Write a random checkpoint of `family` into `directory` and return the directory.

    What is left out comes from FAMILIES (most: 6 layers, float32, files of 100 KB); `overrides`
    are fields of the family's transformers config. The same arguments give the same weights, and
    the caller's random state is left as it was. Raises KeyError for an unknown family.
    """
    row = FAMILIES[family]
    fields = {**COMMON, **row.fields, "num_hidden_layers": layers or row.layers, **overrides}
    config = AutoConfig.for_model(row.model_type, **fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype or row.dtype))
        stir_vectors(model)
        model.get_input_embeddings().weight.data.mul_(row.embedding_factor)
    model.save_pretrained(directory, max_shard_size=max_shard_size or row.max_shard_size)
    copy_tokenizer(directory, config.vocab_size)
    return directory


def stir_vectors(model: torch.nn.Module) -> None:
    """Give norms, biases and sinks values of their own: born as ones or zeros, a lost one would
    not be seen."""
    for values in model.state_dict().values():
        if values.dim() == 1:
            values.add_(torch.randn(values.shape).to(values.dtype), alpha=VECTOR_SPREAD)


def copy_tokenizer(directory: Path, vocabulary: int) -> None:
    """Put the trained model's tokenizer beside the weights; ValueError if it has too many ids."""
    content = json.loads((TOKENIZER_DIRECTORY / "tokenizer.json").read_text(encoding="utf-8"))
    needed = len(content["model"]["vocab"])
    if needed > vocabulary:
        raise ValueError(f"vocab_size {vocabulary} is below the tokenizer's {needed} ids")
    for name in TOKENIZER_FILES:
        shutil.copyfile(TOKENIZER_DIRECTORY / name, directory / name)


def main() -> None:
    """Make one checkpoint and print its directory."""
    parser = argparse.ArgumentParser(description="Make a random checkpoint for tests.")
    parser.add_argument("family", choices=sorted(FAMILIES))
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--max-shard-size", help="such as 100KB or 250MB")
    arguments = vars(parser.parse_args())
    directory = make_checkpoint(arguments.pop("directory"), arguments.pop("family"), **arguments)
    files = list(directory.glob("*.safetensors"))
    size_bytes = sum(path.stat().st_size for path in files)
    sys.stdout.write(f"{directory}\n")
    sys.stderr.write(f"{len(files)} weight files, {size_bytes:,} bytes\n")


if __name__ == "__main__":
    main()
