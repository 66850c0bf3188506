"""Every family and setting that is served, in pieces, against the unsplit model in transformers.

docs/models.md is written from the markers of these tests: a family is what all of them pass for.
"""

import numpy as np
import pytest

from node.engine.base import ComputeDtype, Output
from node.engine.errors import StepInvalid
from node.engine.torch_backend import load
from node.engine.torch_backend.families import SERVED
from node.engine.torch_backend.shard import load_shard
from tests.node.engine.engine_cases import GREEDY, Route, spec_of, tokens_item
from tests.node.engine.torch_cases import (
    COUNT,
    FAMILIES,
    LAYERS,
    PROMPTS,
    VARIANTS,
    WINDOW,
    Models,
    family_of,
    generate_together,
    last_hidden,
    load_unsplit,
    make_unsplit,
    open_all,
    prompt_of,
    store_as_mxfp4,
    torch,
)

CUTS = (1, 2)
"""The boundaries of the cut in three."""
FEW = 4
"""Tokens where many ways of cutting are compared."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.set_num_threads(1)
    return Models(tmp_path_factory.mktemp("models"))


def checks(check, names=FAMILIES):
    """Run the test for each of the names, and say in docs/models.md that it was run."""
    marked = [
        pytest.param(name, marks=pytest.mark.family(family_of(name), check=check)) for name in names
    ]
    return pytest.mark.parametrize("name", marked)


class TestTokens:
    @checks("cuts")
    @pytest.mark.parametrize("bounds", [*((bound,) for bound in range(1, LAYERS)), CUTS], ids=str)
    def test_any_cut_in_a_batch(self, name, bounds, models):
        found = generate_together(models.shards(name, *bounds), PROMPTS, FEW)
        assert found == [tokens[:FEW] for tokens in models.expected(name)]

    @checks("cuts")
    def test_cut_in_three_alone(self, name, models):
        alone = Route(models.shards(name, *CUTS))
        assert alone.generate(PROMPTS[1], COUNT) == models.expected(name)[1]
        alone.close()

    @checks("batched", [*FAMILIES, *VARIANTS])
    def test_ragged_batch(self, name, models):
        found = generate_together(models.shards(name, *CUTS), PROMPTS, COUNT)
        assert found == models.expected(name)
        assert len({token for tokens in found for token in tokens}) > COUNT, "the test says little"

    @checks("chunks")
    @pytest.mark.parametrize("chunk", [WINDOW - 5, 2 * WINDOW + 9])
    def test_prefill_in_chunks(self, name, chunk, models):
        route = Route(models.shards(name, 2))
        found = route.generate(PROMPTS[2], FEW, chunk=chunk)
        assert found == models.expected(name)[2][:FEW]
        route.close()

    @checks("verify", [*FAMILIES, *VARIANTS])
    def test_drafts_of_which_some_are_rejected(self, name, models):
        route = Route(models.shards(name, *CUTS))
        drafts = models.expected(name)[2]
        assert route.generate_drafted(PROMPTS[2], drafts, 4) == drafts
        route.close()

    @checks("truncate")
    def test_rows_are_forgotten_far_behind_the_window(self, name, models):
        shards = models.shards(name, *CUTS)
        unsplit = models.unsplit(name)
        route = Route(shards)
        route.step(0, PROMPTS[2])
        kept, others = PROMPTS[2][:41], prompt_of(WINDOW + 8, seed=9)
        route.truncate(len(kept))
        found = route.step(len(kept), others, wanted=len(others)).tolist()
        assert found == unsplit.next_tokens([*kept, *others])[len(kept) :]
        route.truncate(0)
        found = route.step(0, PROMPTS[1], wanted=len(PROMPTS[1])).tolist()
        assert found == unsplit.next_tokens(PROMPTS[1])
        route.close()
        for shard in shards:
            assert shard.statistics().sequences == 0
            with pytest.raises(StepInvalid):
                shard.truncate(route.sequence_id, 0)


class TestTable:
    def test_every_served_family_is_tested(self):
        assert set(FAMILIES) == SERVED
        assert {family_of(name) for name in VARIANTS} <= SERVED


class TestLogits:
    @pytest.mark.parametrize("name", ["gemma2", "gemma3_text-capped", "granite", "cohere2"])
    def test_scales_and_caps_after_the_head_are_applied(self, name, models):
        """Greedy tokens would not show them: they leave the order as it is."""
        unsplit = models.unsplit(name)
        shard = load_shard(spec_of(unsplit.directory, 0, LAYERS, layers=LAYERS))
        with torch.inference_mode():
            expected = unsplit.model(torch.tensor([PROMPTS[1]])).logits[0].numpy()
            hidden = torch.from_numpy(last_hidden(unsplit.model, PROMPTS[1]))
            found = shard.logits(hidden)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


class TestKVBytes:
    def test_latent_families_hold_latents_and_not_keys_and_values(self, models):
        for name in ("deepseek_v2", "deepseek_v3"):
            config = models.unsplit(name).model.config
            (shard,) = models.shards(name)
            latent = config.kv_lora_rank + config.qk_rope_head_dim
            assert shard.info.kv_bytes_per_token == LAYERS * latent * 4
            expanded = config.num_attention_heads * (config.qk_head_dim + config.v_head_dim)
            assert latent < expanded / 5


TRAINED_TOKENS = 40
LONGROPE = {
    "max_position_embeddings": 4 * TRAINED_TOKENS,
    "original_max_position_embeddings": TRAINED_TOKENS,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "long_factor": [1.0 + 0.7 * index for index in range(8)],
        "short_factor": [1.0 + 0.05 * index for index in range(8)],
        "original_max_position_embeddings": TRAINED_TOKENS,
    },
}
"""As Phi-3.5 has it; families differ in which of the two places they read."""


DYNAMIC = {
    "max_position_embeddings": TRAINED_TOKENS,
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
}


class TestContext:
    """Ropes that turn otherwise past a length are served up to it."""

    @pytest.mark.parametrize(
        ("family", "fields"),
        [("phi3", LONGROPE), ("llama", LONGROPE), ("llama", DYNAMIC)],
        ids=["phi3-longrope", "llama-longrope", "llama-dynamic"],
    )
    def test_served_exactly_up_to_the_length_first_trained_for(self, family, fields, tmp_path):
        unsplit = make_unsplit(tmp_path, family, **fields)
        shards = [
            load(spec_of(unsplit.directory, *span, layers=LAYERS)) for span in ((0, 2), (2, LAYERS))
        ]
        for shard in shards:
            assert shard.info.context_tokens == TRAINED_TOKENS
            with pytest.raises(StepInvalid, match=f"context of {TRAINED_TOKENS}"):
                shard.open(0, capacity_tokens=TRAINED_TOKENS + 1, sampling=GREEDY)
        prompts = [prompt_of(length, seed=length) for length in (3, TRAINED_TOKENS - 6)]
        # the last row's position is the last before the switch
        found = generate_together(shards, prompts, 7, capacity=TRAINED_TOKENS)
        assert found == [unsplit.generate(prompt, 7) for prompt in prompts]

    def test_the_unsplit_model_does_turn_otherwise_past_it(self, tmp_path):
        """Or else the limit would be needless."""
        unsplit = make_unsplit(tmp_path, "phi3", **LONGROPE)
        tokens = prompt_of(TRAINED_TOKENS + 1)
        assert unsplit.next_tokens(tokens)[:-1] != unsplit.next_tokens(tokens[:-1])


class TestStoredInMxfp4:
    def test_weights_are_unpacked_into_the_compute_dtype(self, tmp_path):
        unsplit = store_as_mxfp4(make_unsplit(tmp_path, "gpt_oss"))
        shards = [
            load(spec_of(unsplit.directory, *span, layers=LAYERS)) for span in ((0, 2), (2, LAYERS))
        ]
        found = generate_together(shards, PROMPTS, COUNT)
        assert found == [unsplit.generate(prompt, COUNT) for prompt in PROMPTS]
        stored = sum(path.stat().st_size for path in unsplit.directory.glob("*.safetensors"))
        assert sum(shard.info.weight_bytes for shard in shards) > 1.5 * stored


class TestBf16:
    @pytest.mark.parametrize(
        "name",
        [
            *("deepseek_v3", "gemma2", "gpt_oss", "llama", "mistral", "phi3", "qwen2", "qwen3"),
            "qwen3_moe",
        ],
    )
    def test_error_is_that_of_bf16_itself(self, name, models):
        """One row at a time and all rows at once take different kernels; both must be near."""
        directory = models.unsplit(name).directory
        spec = spec_of(directory, 0, LAYERS, layers=LAYERS, compute_dtype=ComputeDtype.BF16)
        engine = load(spec)
        prompt = PROMPTS[2][:25]
        exact = last_hidden(models.unsplit(name).model, prompt)
        floor = row_error(last_hidden(load_unsplit(directory, "bfloat16"), prompt), exact)
        open_all([engine], [0, 1])
        fields = {"output": Output.HIDDEN}
        (together,) = engine.step([tokens_item(0, 0, prompt, wanted=len(prompt), **fields)])
        alone = [
            engine.step([tokens_item(1, position, [token], **fields)])[0].hidden[0]
            for position, token in enumerate(prompt)
        ]
        assert row_error(together.hidden, exact) < 1.25 * floor
        assert row_error(np.stack(alone), exact) < 1.25 * floor


def row_error(found, exact):
    """Of the row in the middle: where bf16 sends a row to another expert, that row is far off."""
    return float(np.median(np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)))
