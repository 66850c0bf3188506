import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.base import ComputeDtype
from node.hardware import (
    default_threads,
    kv_bytes_per_token_layer,
    layers_that_fit,
    memory_for_layers,
)

SIZES = st.lists(st.integers(1, 10**9), min_size=1, max_size=40)


def test_kv_of_a_grouped_query_model():
    config = {"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
    assert kv_bytes_per_token_layer(config, ComputeDtype.BF16) == 2 * 8 * 128 * 2
    assert kv_bytes_per_token_layer(config | {"head_dim": 64}, ComputeDtype.FP32) == 2 * 8 * 64 * 4


def test_kv_of_latent_attention():
    config = {"num_attention_heads": 16, "hidden_size": 2048, "kv_lora_rank": 512}
    config |= {"qk_rope_head_dim": 64}
    assert kv_bytes_per_token_layer(config, ComputeDtype.INT4) == 576 * 2


@given(SIZES, st.integers(0, 10**5), st.integers(1, 10**5), st.integers(0, 40))
def test_memory_for_some_layers_holds_those_and_no_more(sizes, kv_bytes, kv_tokens, count):
    largest = sorted(sizes, reverse=True)[:count]
    terms = {
        "stored_element_bytes": 2, "dtype": ComputeDtype.BF16, "kv_bytes": kv_bytes,
        "kv_tokens": kv_tokens,
    }  # fmt: skip
    memory = memory_for_layers(largest, **terms)
    assert layers_that_fit(memory, sizes, **terms) >= len(largest)
    assert layers_that_fit(memory - 1, sizes, **terms) < max(len(largest), 1) or not largest


def test_fp32_of_a_bf16_model_takes_twice_the_weights():
    terms = {"stored_element_bytes": 2, "kv_bytes": 0, "kv_tokens": 1}
    half = memory_for_layers([1000], dtype=ComputeDtype.BF16, **terms)
    whole = memory_for_layers([1000], dtype=ComputeDtype.FP32, **terms)
    assert (half, whole) == (1150, 2300)


@pytest.mark.parametrize(
    ("dtype", "share"), [(ComputeDtype.INT8, 0.51), (ComputeDtype.INT4, 0.285)]
)
def test_quantized_weights_take_their_share_and_rows_stay_bf16(dtype, share):
    terms = {"stored_element_bytes": 2, "kv_bytes": 0, "kv_tokens": 1}
    plain = memory_for_layers([10**9], dtype=ComputeDtype.BF16, **terms)
    assert memory_for_layers([10**9], dtype=dtype, **terms) == pytest.approx(share * plain)
    config = {"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
    bf16 = kv_bytes_per_token_layer(config, ComputeDtype.BF16)
    assert kv_bytes_per_token_layer(config, dtype) == bf16


def test_one_logical_core_is_left_free():
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert 1 <= default_threads() <= max(1, usable - 1)
