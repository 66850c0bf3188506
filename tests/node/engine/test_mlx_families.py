"""Every family that the MLX backend serves, in pieces, against the unsplit model in transformers.

docs/models.md is written from the markers of these tests: a family is what all of them pass for.
"""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from node.engine.base import ComputeDtype, Output, StepItem, StepResult
from node.engine.mlx_backend import load
from node.engine.mlx_backend.families import SERVED
from node.engine.torch_backend import load as load_torch
from node.engine.wire import decode
from protocol.tensor import WireDtype
from tests.node.engine.engine_cases import Route, spec_of
from tests.node.engine.mlx_cases import mx, relative_error
from tests.node.engine.torch_cases import (
    COUNT,
    FAMILIES,
    LAYERS,
    PROMPTS,
    WINDOW,
    Models,
    family_of,
    generate_together,
    last_hidden,
    make_unsplit,
    prompt_of,
    torch,
)

CUTS = (1, 3)
"""The boundaries of the cut in three."""
ALONE_COUNT = 4

VARIANTS = {
    "llama-linear": {
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}
    },
    "llama-yarn": {
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 4.0,
            "rope_theta": 20000.0,
            "original_max_position_embeddings": 64,
        }
    },
    "llama-biases": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    "mixtral-windows": {"sliding_window": WINDOW},
    "qwen2-windows": {
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 2,
    },
    "qwen3_moe-mixed": {"norm_topk_prob": False, "decoder_sparse_step": 2, "mlp_only_layers": [3]},
    "phi3-partial": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.75,
        }
    },
    # a hidden size whose root is no bf16: the embedding's scale is rounded in bf16 only
    "gemma2-scale": {"hidden_size": 96, "final_logit_softcapping": None},
    "gemma3_text-scale": {
        "hidden_size": 96,
        "sliding_window": WINDOW,
        "final_logit_softcapping": 3.0,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "deepseek_v3-direct": {"q_lora_rank": None, "attention_bias": True},
}
"""Settings of those families that take another way through the code."""

SAME_FP32 = 1e-5
"""How far two libraries' fp32 may lie apart, ‖a - b‖ / ‖b‖: sums of a few hundred products in
another order differ by 1e-7 to 1e-6 a layer, and measured is at most 3e-6 after five."""

SAME_BF16 = 1.5
"""In bf16 a mixed route may lie so many times as far from fp32 as torch alone: each library rounds
elsewhere, but as often. Measured on the trained model: 8.0e-3 and 8.2e-3."""

TRAINED = Path(__file__).parents[3] / "node" / "assets" / "piecework-tiny"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.set_num_threads(1)
    return MLXModels(tmp_path_factory.mktemp("models"))


class MLXModels(Models):
    """As Models, with MLX's shards."""

    def unsplit(self, name):
        return self._once(name, lambda: make_unsplit(self.folder, name, **VARIANTS.get(name, {})))

    def shards(self, name, *bounds):
        return self._once((name, bounds), lambda: self._load(name, bounds))

    def _load(self, name, bounds):
        directory = self.unsplit(name).directory
        edges = (0, *bounds, LAYERS)
        spans = pairwise(edges)
        return [load(spec_of(directory, *span, layers=LAYERS)) for span in spans]


def checks(check, names):
    """Run the test for each of the names, and say in docs/models.md that it was run."""
    marked = [
        pytest.param(name, marks=pytest.mark.family(family_of(name), check=check, backend="mlx"))
        for name in names
    ]
    return pytest.mark.parametrize("name", marked)


NAMES = sorted(SERVED)


class TestTokens:
    @checks("cuts", NAMES)
    def test_every_boundary_alone_and_in_a_batch(self, name, models):
        expected = [tokens[:ALONE_COUNT] for tokens in models.expected(name)[:2]]
        for bounds in [*((bound,) for bound in range(1, LAYERS)), CUTS]:
            together = generate_together(models.shards(name, *bounds), PROMPTS[:2], ALONE_COUNT)
            assert together == expected, bounds
        route = Route(models.shards(name, *CUTS))
        assert route.generate(PROMPTS[1], ALONE_COUNT) == expected[1]
        route.close()

    @checks("batched", [*NAMES, *VARIANTS])
    def test_ragged_batch(self, name, models):
        found = generate_together(models.shards(name, *CUTS), PROMPTS, COUNT)
        assert found == models.expected(name)
        assert len({token for tokens in found for token in tokens}) > COUNT, "the test says little"

    @checks("chunks", NAMES)
    def test_prefill_in_chunks(self, name, models):
        """Of more rows than the window has, and the last one of fewer."""
        route = Route(models.shards(name, 2))
        found = route.generate(PROMPTS[2], ALONE_COUNT, chunk=2 * WINDOW - 5)
        assert found == models.expected(name)[2][:ALONE_COUNT]
        route.close()

    @checks("verify", NAMES)
    def test_drafts_of_which_some_are_rejected(self, name, models):
        route = Route(models.shards(name, *CUTS))
        drafts = models.expected(name)[2]
        assert route.generate_drafted(PROMPTS[2], drafts, 4) == drafts
        route.close()

    @checks("truncate", NAMES)
    def test_rows_are_forgotten_far_behind_the_window(self, name, models):
        unsplit = models.unsplit(name)
        route = Route(models.shards(name, *CUTS))
        route.step(0, PROMPTS[2])
        kept, others = PROMPTS[2][:41], prompt_of(WINDOW + 8, seed=9)
        route.truncate(len(kept))
        found = route.step(len(kept), others, wanted=len(others)).tolist()
        assert found == unsplit.next_tokens([*kept, *others])[len(kept) :]
        route.truncate(0)
        found = route.step(0, PROMPTS[1], wanted=len(PROMPTS[1])).tolist()
        assert found == unsplit.next_tokens(PROMPTS[1])
        route.close()


class TestTable:
    def test_every_variant_is_of_a_served_family(self):
        assert {family_of(name) for name in VARIANTS} <= set(SERVED) <= set(FAMILIES)


class TestMixedRoutes:
    """torch, then MLX, then torch: the same hidden states as torch all the way."""

    @pytest.mark.parametrize("name", NAMES)
    def test_hidden_states_and_tokens_in_fp32(self, name, models):
        unsplit = models.unsplit(name)
        specs = [
            spec_of(unsplit.directory, *span, layers=LAYERS)
            for span in ((0, 1), (1, 3), (3, LAYERS))
        ]
        shards = [load_torch(specs[0]), load(specs[1]), load_torch(specs[2])]
        found = hidden_through(shards, PROMPTS[2], WireDtype.FP32)
        assert relative_error(found, last_hidden(unsplit.model, PROMPTS[2])) < SAME_FP32
        route = Route(shards)
        assert route.generate(PROMPTS[1], ALONE_COUNT) == models.expected(name)[1][:ALONE_COUNT]

    def test_hidden_states_in_bf16(self):
        layers = json.loads((TRAINED / "config.json").read_text())["num_hidden_layers"]
        spans = ((0, 2), (2, 5), (5, layers))

        def specs(dtype):
            return [spec_of(TRAINED, *span, layers=layers, compute_dtype=dtype) for span in spans]

        exact = hidden_through(
            [load_torch(spec) for spec in specs(ComputeDtype.FP32)], PROMPTS[2], WireDtype.FP32
        )
        first, middle, last = specs(ComputeDtype.BF16)
        between = [load_torch(first), load_torch(middle), load_torch(last)]
        mixed = [between[0], load(middle), between[2]]
        errors = [
            relative_error(hidden_through(shards, PROMPTS[2], WireDtype.BF16), exact)
            for shards in (between, mixed)
        ]
        print(f"bf16: torch alone {errors[0]:.1e} from fp32, with MLX between {errors[1]:.1e}")
        assert errors[1] < SAME_BF16 * errors[0]

    @pytest.mark.parametrize("wire", WireDtype)
    def test_every_wire_dtype_carries_what_torch_would_have_sent(self, wire, models):
        """Only the wire may round: what comes out is as near to fp32 as between torch shards."""
        unsplit = models.unsplit("llama")
        specs = [spec_of(unsplit.directory, *span, layers=LAYERS) for span in ((0, 2), (2, LAYERS))]
        exact = last_hidden(unsplit.model, PROMPTS[2])
        ways = {
            "torch": [load_torch(spec) for spec in specs],
            "mlx": [load(spec) for spec in specs],
            "mixed": [load(specs[0]), load_torch(specs[1])],
        }
        found = {way: hidden_through(shards, PROMPTS[2], wire) for way, shards in ways.items()}
        floor = relative_error(found["torch"], exact)
        print(f"{wire}: {floor:.1e} from fp32 between torch shards")
        for way in ("mlx", "mixed"):
            assert relative_error(found[way], exact) < 1.1 * floor + SAME_FP32


def hidden_through(shards, tokens, wire):
    """(tokens, hidden_size) float32 after the last shard's layers, as its wire dtype holds it."""
    count, hidden = len(tokens), None
    for shard in shards:
        shard.open(77, capacity_tokens=count, sampling=None)
        ids = None if hidden is not None else np.asarray(tokens, np.int32)
        item = StepItem(77, 0, count, count, Output.HIDDEN, wire, tokens=ids, hidden=hidden)
        (result,) = shard.step([item])
        assert isinstance(result, StepResult), result
        hidden = result.hidden
        shard.close(77)
    return decode(hidden, wire, shards[-1].info.hidden_size)


class TestDeepSeekRouter:
    def test_negative_biases_choose_the_same_experts(self, tmp_path):
        """mlx_lm gives experts of groups that are out a zero, which negative scores lie below."""
        made = make_unsplit(tmp_path, "deepseek_v3")
        index = json.loads((made.directory / "model.safetensors.index.json").read_text())
        for name, file in index["weight_map"].items():
            if name.endswith("e_score_correction_bias"):
                path = str(made.directory / file)
                tensors = dict(mx.load(path))
                bias = np.linspace(-3.0, -0.5, tensors[name].size, dtype=np.float32)
                tensors[name] = mx.array(bias)
                mx.save_safetensors(path, tensors, metadata={"format": "pt"})
        from tests.node.engine.torch_cases import Unsplit, load_unsplit

        unsplit = Unsplit(made.directory, load_unsplit(made.directory, torch.float32))
        assert unsplit.next_tokens(PROMPTS[1]) != made.next_tokens(PROMPTS[1])
        engine = load(spec_of(made.directory, 0, LAYERS, layers=LAYERS))
        found = Route([engine]).step(0, PROMPTS[1], wanted=len(PROMPTS[1])).tolist()
        assert found == unsplit.next_tokens(PROMPTS[1])
