"""What this machine can hold: memory by measurement, layers by arithmetic."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from node.engine.base import ComputeDtype

__all__ = [
    "OVERHEAD",
    "available_memory_bytes",
    "default_threads",
    "kv_bytes_per_token_layer",
    "layers_that_fit",
    "memory_for_layers",
    "row_element_bytes",
    "spare_memory_bytes",
]

MEMORY_SHARE = 0.8
"""Of the memory that is free now: the rest is the owner's."""
SPARE_SHARE = 0.5
"""Of free memory that an engine may take for speed where nobody set a limit."""
OVERHEAD = 1.15
"""Activations, allocator and Python on top of weights and KV."""
_WEIGHT_BYTES = {
    ComputeDtype.FP32: 4.0,
    ComputeDtype.BF16: 2.0,
    ComputeDtype.INT8: 1.02,  # with a scale of 4 bytes a row of 256 inputs or more
    ComputeDtype.INT4: 0.57,  # with 4 bytes of scale and zero point a group of 64
}
_ROW_ELEMENT_BYTES = {
    ComputeDtype.FP32: 4,
    ComputeDtype.BF16: 2,
    ComputeDtype.INT8: 2,
    ComputeDtype.INT4: 2,
}
"""Of keys and values: int8 and int4 are dtypes of weights alone."""


def available_memory_bytes() -> int:
    """What a node may take when nobody says how much."""
    return int(psutil.virtual_memory().available * MEMORY_SHARE)


def spare_memory_bytes() -> int:
    """What an engine may take for speed alone when nobody says how much."""
    return int(psutil.virtual_memory().available * SPARE_SHARE)


def default_threads() -> int:
    """A thread a physical core this process may use, but one logical core is left free.

    It carries the network and the owner. Two threads of one core share its units and caches; what
    a second one brings was not measured here.
    """
    has_affinity = hasattr(os, "sched_getaffinity")
    usable = len(os.sched_getaffinity(0)) if has_affinity else (os.cpu_count() or 1)
    physical = psutil.cpu_count(logical=False) or usable
    return max(1, min(physical, usable - 1))


def row_element_bytes(dtype: ComputeDtype) -> int:
    """Of an element of keys, values and embeddings, in a shard of that numerics class."""
    return _ROW_ELEMENT_BYTES[dtype]


def kv_bytes_per_token_layer(config: Mapping[str, Any], dtype: ComputeDtype) -> int:
    """Keys and values of one token in one layer, from a model's config.json."""
    if rank := config.get("kv_lora_rank"):  # latent attention keeps these in place of both
        return (int(rank) + int(config["qk_rope_head_dim"])) * _ROW_ELEMENT_BYTES[dtype]
    heads = int(config["num_attention_heads"])
    key_value_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
    return 2 * key_value_heads * head_dim * _ROW_ELEMENT_BYTES[dtype]


def memory_for_layers(
    layer_sizes: Sequence[int], *, stored_element_bytes: int, dtype: ComputeDtype,
    kv_bytes: int, kv_tokens: int,
) -> int:  # fmt: skip
    """Bytes that a span of these layers takes while serving `kv_tokens`."""
    weights = sum(layer_sizes) * _WEIGHT_BYTES[dtype] / stored_element_bytes
    return int((weights + kv_bytes * kv_tokens * len(layer_sizes)) * OVERHEAD)


def layers_that_fit(
    memory_bytes: int, layer_sizes: Sequence[int], *, stored_element_bytes: int,
    dtype: ComputeDtype, kv_bytes: int, kv_tokens: int,
) -> int:  # fmt: skip
    """How many layers fit wherever the span lies: the largest layers are counted first."""
    largest = sorted(layer_sizes, reverse=True)
    count = 0
    while count < len(largest) and memory_bytes >= memory_for_layers(
        largest[: count + 1], stored_element_bytes=stored_element_bytes, dtype=dtype,
        kv_bytes=kv_bytes, kv_tokens=kv_tokens,
    ):  # fmt: skip
        count += 1
    return count
