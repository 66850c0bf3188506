"""What mlx_lm is told of a config, and what is refused by name because it would not be heard."""

import pytest

from node.engine.errors import ModelUnsupported
from node.engine.mlx_backend.config import normalize
from node.engine.mlx_backend.families import SERVED

BASE = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 100,
    "rms_norm_eps": 1e-6,
}
GEMMA3 = {
    **BASE,
    "model_type": "gemma3_text",
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": 8,
    "sliding_window_pattern": 2,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
}
GEMMA2 = {
    **BASE,
    "model_type": "gemma2",
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "sliding_window": 8,
    "rope_theta": 1e4,
}
MIXTRAL = {**BASE, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
DEEPSEEK = {
    **BASE,
    "model_type": "deepseek_v3",
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "moe_intermediate_size": 8,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 0,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


class TestRope:
    def test_settings_of_transformers_5_stand_where_mlx_lm_looks(self):
        config = normalize({**BASE, "rope_parameters": {**LLAMA3, "rope_theta": 5e5}})
        assert config.fields["rope_theta"] == 5e5
        scaling = config.fields["rope_scaling"]
        assert (scaling["rope_type"], scaling["factor"]) == ("llama3", 8.0)
        assert scaling["original_max_position_embeddings"] == 100

    def test_settings_of_transformers_4_are_the_same(self):
        new = {**LLAMA3, "rope_theta": 5e5}
        old = {**BASE, "rope_theta": 5e5, "rope_scaling": LLAMA3}
        found = normalize(old).fields["rope_scaling"]
        assert found == {
            key: value
            for key, value in normalize({**BASE, "rope_parameters": new})
            .fields["rope_scaling"]
            .items()
            if key != "rope_theta"
        }

    def test_an_unnamed_theta_is_what_transformers_takes(self):
        assert normalize(BASE).fields["rope_theta"] == 1e4
        assert normalize(MIXTRAL).fields["rope_theta"] == 1e6

    def test_the_ropes_of_gemma_3_lie_nested_by_layer_type(self):
        nested = {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 3e4},
        }
        flat = {key: value for key, value in GEMMA3.items() if not key.startswith("rope")}
        fields = normalize({**flat, "rope_parameters": nested}).fields
        assert (fields["rope_theta"], fields["rope_local_base_freq"]) == (2e6, 3e4)
        assert fields["rope_scaling"]["factor"] == 8.0
        fields = normalize(GEMMA3).fields
        assert (fields["rope_theta"], fields["rope_local_base_freq"]) == (1e6, 1e4)
        assert fields["rope_scaling"] is None


class TestWindows:
    def test_each_family_by_the_rules_of_transformers(self):
        assert normalize({**BASE, "model_type": "mistral"}).windows == (4096,) * 4
        assert (
            normalize({**BASE, "model_type": "mistral", "sliding_window": None}).windows[0] is None
        )
        assert normalize(GEMMA2).windows == (8, None, 8, None)
        assert normalize(GEMMA3).windows == (8, None, 8, None)
        qwen = {**BASE, "model_type": "qwen2", "sliding_window": 8, "max_window_layers": 3}
        assert normalize(qwen).windows == (None,) * 4
        assert normalize({**qwen, "use_sliding_window": True}).windows == (None, None, None, 8)

    def test_the_pattern_of_gemma_3_is_read_off_its_layer_types(self):
        kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
        config = {**GEMMA3, "layer_types": kinds, "sliding_window_pattern": 6}
        assert normalize(config).fields["sliding_window_pattern"] == 3
        none_full = {**GEMMA3, "layer_types": ["sliding_attention"] * 4}
        assert normalize(none_full).fields["sliding_window_pattern"] > 4
        with pytest.raises(ModelUnsupported, match="no regular pattern"):
            normalize({**GEMMA3, "layer_types": kinds[::-1]})


class TestTied:
    def test_gemma_is_tied_where_the_config_is_silent(self):
        assert normalize(GEMMA2).is_tied
        assert not normalize(BASE).is_tied


class TestExperts:
    def test_both_names_of_their_number_are_read(self):
        config = {
            **BASE,
            "model_type": "qwen3_moe",
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 8,
            "decoder_sparse_step": 1,
            "norm_topk_prob": False,
        }
        for name in ("num_experts", "num_local_experts"):
            assert normalize({**config, name: 8}).fields["num_experts"] == 8
        with pytest.raises(ModelUnsupported, match="does not say num_experts"):
            normalize(config)


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"model_type": "gpt_oss"}, "'gpt_oss' is not served.*truncated"),
            ({"model_type": "gemma3"}, "'gemma3' is not served.*gemma3_text"),
            ({"model_type": None}, "is not served"),
            ({"model_type": ["llama"]}, "is not served"),
            ({"quantization": {"bits": 4}}, "quantized"),
            ({"rope_parameters": {"rope_type": "longrope"}}, "rope type 'longrope'"),
            ({"rope_parameters": {"rope_type": "yarn", "truncate": False}}, "sets truncate"),
            ({"rope_parameters": {"rope_type": "yarn", "mscale": 1.0}}, "one of its two mscales"),
            ({"rope_parameters": {"rope_type": "linear"}}, "does not say factor"),
            ({"rope_parameters": {"rope_type": ["default"]}}, "rope type"),
            ({"rope_parameters": "default"}, "not a map"),
            ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope type 'dynamic'"),
            ({"rope_theta": "big"}, "does not say rope_theta"),
            ({"hidden_act": "gelu"}, "hidden_act"),
            ({"model_type": "qwen3", "attention_bias": True}, "attention_bias"),
            ({"model_type": "mistral", "sliding_window": "wide"}, "sliding_window"),
            ({"model_type": "qwen2", "head_dim": 32}, "head_dim"),
            ({"model_type": "mixtral"}, "num_local_experts"),
            ({**MIXTRAL, "head_dim": 32}, "head_dim"),
            ({**MIXTRAL, "rope_parameters": LLAMA3}, "rope type 'llama3'"),
            ({**GEMMA2, "attn_logit_softcapping": None}, "attn_logit_softcapping"),
            ({**GEMMA2, "tie_word_embeddings": False}, "tie_word_embeddings"),
            ({**GEMMA2, "hidden_activation": "gelu"}, "hidden_activation"),
            ({**GEMMA3, "attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
            ({**GEMMA3, "use_bidirectional_attention": True}, "later positions"),
            ({**GEMMA3, "sliding_window": None}, "sliding_window"),
            ({**GEMMA3, "rope_theta": None}, "rope_theta"),
            ({**GEMMA3, "layer_types": ["linear_attention"] * 4}, "layer_types"),
            ({**DEEPSEEK, "rope_interleave": False}, "rope_interleave"),
            ({**DEEPSEEK, "topk_method": "greedy"}, "topk_method"),
            ({**DEEPSEEK, "num_experts_per_tok": 1}, "single expert"),
            ({"rms_norm_eps": None}, "rms_norm_eps"),
            ({"partial_rotary_factor": 0.5}, "partial rotary"),
        ],
    )
    def test_what_mlx_lm_would_compute_otherwise_is_refused_by_name(self, changes, reason):
        assert normalize(BASE).layers == 4
        with pytest.raises(ModelUnsupported, match=reason):
            normalize({**BASE, **changes})

    def test_the_configs_of_this_test_are_served_unchanged(self):
        for config in (BASE, MIXTRAL, GEMMA2, GEMMA3, DEEPSEEK):
            assert normalize(config).family in SERVED
