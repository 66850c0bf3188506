"""Torch shards against the unsplit model in transformers: the same tokens, however it is cut."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.engine.base import Output, StepItem
from node.engine.errors import OutOfKV, StepInvalid
from node.engine.torch_backend import load
from protocol.errors import EngineError
from protocol.route import Span
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype
from tests.node.engine.engine_cases import GREEDY, Route, cuts, ends_of, spec_of, tokens_item
from tests.node.engine.torch_cases import (
    CAPACITY,
    COUNT,
    LAYERS,
    PROMPTS,
    Models,
    close_all,
    generate_together,
    make_unsplit,
    open_all,
    prompt_of,
    step_through,
    torch,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.set_num_threads(1)
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def unsplit(models):
    return models.unsplit


@pytest.fixture(scope="module")
def expected(models):
    return models.expected


@pytest.fixture(scope="module")
def shards(models):
    return models.shards


@pytest.fixture
def whole(shards):
    """One shard that holds the whole tiny Llama; what a test opens is closed after it."""
    (engine,) = shards("llama")
    yield engine
    for sequence_id in range(10):
        engine.close(sequence_id)


class TestTokens:
    @pytest.mark.parametrize("bounds", [(), range(1, LAYERS)], ids=["whole", "single layers"])
    def test_ragged_batch_equals_unsplit_generate(self, bounds, shards, expected):
        assert generate_together(shards("llama", *bounds), PROMPTS, COUNT) == expected("llama")

    @pytest.mark.parametrize("name", ["llama", "llama-untied", "qwen3"])
    @pytest.mark.parametrize("count", [1, 3])
    def test_sealed_route_with_its_ends_in_a_shard_of_their_own(
        self, name, count, unsplit, expected
    ):
        directory = unsplit(name).directory
        ends = load(ends_of(directory))
        layers = [
            load(spec_of(directory, *span, layers=LAYERS, embeds=False, has_head=False))
            for span in cuts(LAYERS, count)
        ]
        assert ends.info.kv_bytes_per_token == 0
        route = Route([ends, *layers, ends])
        assert route.generate(PROMPTS[1], COUNT) == expected(name)[1]

    @pytest.mark.parametrize("chunk", [1, 7, 64])
    @pytest.mark.parametrize("name", ["llama", "qwen2-windows"])
    def test_chunked_prefill_changes_nothing(self, name, chunk, shards, expected):
        route = Route(shards(name, 2))
        assert route.generate(PROMPTS[2], COUNT, chunk=chunk) == expected(name)[2]
        route.close()

    @pytest.mark.parametrize("k", [1, 8])
    @pytest.mark.parametrize("name", ["llama", "deepseek_v3"])
    def test_verified_drafts_and_rollback_change_nothing(self, name, k, shards, expected):
        route = Route(shards(name, 2))
        drafts = expected(name)[2]
        assert route.generate_drafted(PROMPTS[2], drafts, k) == drafts
        route.close()

    def test_sequence_that_joins_while_others_decode(self, shards, expected):
        engines = shards("llama", 1, 3)
        open_all(engines, [0, 1])
        (first,) = step_through(engines, {0: (0, PROMPTS[0])}, wanted=lambda _: 1).values()
        # the prefill of the second and a decode of the first in one step
        rows = {0: (len(PROMPTS[0]), first), 1: (0, PROMPTS[2])}
        drawn = step_through(engines, rows, wanted=lambda _: 1)
        assert [first + drawn[0], drawn[1]] == [expected("llama")[0][:2], expected("llama")[2][:1]]
        close_all(engines, [0, 1])

    def test_more_sequences_than_a_slab_holds(self, whole, unsplit):
        prompts = [prompt_of(3 + index % 5, seed=index) for index in range(70)]
        ids = range(len(prompts))
        open_all([whole], ids, capacity=64)
        drawn = step_through([whole], {index: (0, prompts[index]) for index in ids})
        again = step_through(
            [whole], {index: (len(prompts[index]), drawn[index][-1:]) for index in ids}
        )
        for index, prompt in enumerate(prompts):
            tokens = [*prompt, drawn[index][-1]]
            assert drawn[index] + again[index] == unsplit("llama").next_tokens(tokens)
        close_all([whole], ids)


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.lists(st.integers(1, 40), min_size=6, max_size=6)),
        st.tuples(st.just("decode"), st.lists(st.booleans(), min_size=6, max_size=6)),
        st.tuples(st.just("truncate"), st.integers(0, 5), st.floats(0, 1)),
        st.tuples(st.just("reopen"), st.integers(0, 5)),
    ),
    min_size=3,
    max_size=9,
)


class TestIndependence:
    @pytest.mark.parametrize("name", ["llama", "mistral"])
    @settings(
        max_examples=35, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(operations=OPERATIONS, seed=st.integers(0, 1000))
    def test_joins_truncates_and_closes_leave_each_sequence_as_if_alone(
        self, name, operations, seed, shards, unsplit
    ):
        engines = shards(name, 2)
        random = np.random.default_rng(seed)
        held = {index: [] for index in range(6)}
        open_all(engines, held)
        try:
            for operation, *arguments in operations:
                match operation:
                    case "reopen":
                        close_all(engines, arguments)
                        open_all(engines, arguments)
                        held[arguments[0]] = []
                    case "truncate":
                        index, share = arguments
                        held[index] = held[index][: int(share * len(held[index]))]
                        for engine in engines:
                            engine.truncate(index, len(held[index]))
                    case _:
                        self._step(engines, held, arguments[0], random, unsplit(name))
        finally:
            close_all(engines, held)

    def _step(self, engines, held, sizes, random, unsplit):
        rows = {}
        for index, size in enumerate(map(int, sizes)):
            if size and len(held[index]) + size <= CAPACITY:
                rows[index] = (len(held[index]), random.integers(5, 2000, size).tolist())
        if not rows:
            return
        drawn = step_through(engines, rows)
        for index, (position, tokens) in rows.items():
            held[index] = held[index] + tokens
            assert not unsplit.misdrawn(held[index], dict(enumerate(drawn[index], position)))


class TestOpen:
    def test_budget_is_reserved_and_given_back(self, unsplit):
        engine = load(spec_of(unsplit("llama").directory, 0, 1, layers=LAYERS, kv_tokens=100))
        engine.open(0, capacity_tokens=60, sampling=None)
        with pytest.raises(OutOfKV, match="40 are free"):
            engine.open(1, capacity_tokens=41, sampling=None)
        engine.open(1, capacity_tokens=40, sampling=None)
        assert engine.statistics().kv_tokens_reserved == 100
        engine.close(0)
        engine.close(0)  # cancel may race
        statistics = engine.statistics()
        assert (statistics.sequences, statistics.kv_tokens_reserved) == (1, 40)
        assert statistics.kv_tokens_max == 100

    @pytest.mark.parametrize("capacity", [0, -1, 2049])
    def test_capacity_outside_the_context_is_refused(self, capacity, whole):
        with pytest.raises(StepInvalid, match="context of 2048"):
            whole.open(0, capacity_tokens=capacity, sampling=None)

    def test_id_that_is_open_is_refused(self, whole):
        whole.open(0, capacity_tokens=8, sampling=None)
        with pytest.raises(StepInvalid, match="open already"):
            whole.open(0, capacity_tokens=8, sampling=None)


def hidden_item(sequence_id, position, hidden, **fields):
    wire = WireDtype.FP32 if hidden.dtype == np.float32 else WireDtype.BF16
    defaults = {"wanted": len(hidden), "output": Output.HIDDEN, "wire_dtype": wire}
    return StepItem(
        sequence_id, position, count=len(hidden), hidden=hidden, **{**defaults, **fields}
    )


class TestStep:
    @pytest.mark.parametrize(
        ("bad", "says"),
        [
            (tokens_item(1, 3, [5]), "0 rows"),
            (tokens_item(1, -1, [5]), "before the first"),
            (tokens_item(1, 0, []), "is not a step"),
            (tokens_item(1, 0, [5], wanted=2), "is not a step"),
            (tokens_item(1, 0, [5, 2048]), "outside"),
            (tokens_item(1, 0, [5, -1]), "outside"),
            (tokens_item(1, 0, [5] * 33), "capacity of 32"),
            (tokens_item(2, 0, [5]), "sample"),
            (tokens_item(77, 0, [5]), "not open"),
            (tokens_item(0, 0, [5]), "twice"),
            (hidden_item(1, 0, np.zeros((2, 63), np.float32)), "shape"),
            (hidden_item(1, 0, np.full((2, 64), np.nan, np.float32)), "NaN"),
            (hidden_item(1, 0, np.full((2, 64), 0x7F80, np.uint16)), "NaN"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_bad_item_is_refused_in_its_place_and_the_others_run(self, bad, says, whole, unsplit):
        whole.open(0, capacity_tokens=32, sampling=GREEDY)
        whole.open(1, capacity_tokens=32, sampling=GREEDY)
        whole.open(2, capacity_tokens=32, sampling=None)
        good, refused = whole.step([tokens_item(0, 0, PROMPTS[0]), bad])
        assert isinstance(refused, StepInvalid)
        assert says in str(refused)
        assert good.tokens.tolist() == unsplit("llama").next_tokens(PROMPTS[0])[-1:]
        # the refused item's sequence is as it was
        (after,) = whole.step([tokens_item(1, 0, PROMPTS[1])])
        assert after.tokens.tolist() == unsplit("llama").next_tokens(PROMPTS[1])[-1:]

    def test_nothing_to_do(self, whole):
        assert whole.step([]) == []

    def test_shard_without_embedding_takes_no_tokens(self, shards):
        last = shards("llama", 2)[1]
        last.open(0, capacity_tokens=8, sampling=GREEDY)
        (refused,) = last.step([tokens_item(0, 0, [5])])
        last.close(0)
        assert "no embedding" in str(refused)

    def test_unwanted_rows_yield_empty_results(self, whole):
        whole.open(0, capacity_tokens=8, sampling=GREEDY)
        (drawn,) = whole.step([tokens_item(0, 0, [5, 6], wanted=0)])
        assert drawn.tokens.shape == (0,)
        (hidden,) = whole.step([tokens_item(0, 2, [5, 6], wanted=0, output=Output.HIDDEN)])
        assert hidden.hidden.shape == (0, 64)

    def test_wanted_hidden_rows_are_the_last_ones_before_the_norm(self, shards, unsplit):
        first = shards("llama", 2)[0]
        first.open(0, capacity_tokens=32, sampling=None)
        item = tokens_item(0, 0, PROMPTS[0], wanted=2, output=Output.HIDDEN)
        (result,) = first.step([item])
        first.close(0)
        model = unsplit("llama").model
        with torch.inference_mode():
            states = model(torch.tensor([PROMPTS[0]]), output_hidden_states=True).hidden_states
        np.testing.assert_allclose(result.hidden, states[2][0, -2:], rtol=1e-4, atol=1e-5)
        assert result.hidden.dtype == np.float32
        assert result.hidden.flags.c_contiguous

    def test_bf16_wire_rounds_to_nearest_even_and_takes_read_only_arrays(self, shards):
        first, second = shards("llama", 2)
        open_all([first, second], [0, 1])
        exact, wire = (
            first.step([tokens_item(0, 0, PROMPTS[0], wanted=5, output=Output.HIDDEN)])[0],
            first.step(
                [
                    tokens_item(
                        1, 0, PROMPTS[0], wanted=5, output=Output.HIDDEN, wire_dtype=WireDtype.BF16
                    )
                ]
            )[0],
        )
        rounded = torch.from_numpy(exact.hidden).to(torch.bfloat16)
        assert wire.hidden.dtype == np.uint16
        assert (wire.hidden == rounded.view(torch.uint16).numpy()).all()
        wire.hidden.flags.writeable = False
        same = rounded.float().numpy()
        results = second.step([hidden_item(0, 0, same), hidden_item(1, 0, wire.hidden)])
        close_all([first, second], [0, 1])
        again = torch.from_numpy(results[0].hidden).to(torch.bfloat16)
        assert (results[1].hidden == again.view(torch.uint16).numpy()).all()

    def test_broken_weights_give_an_error_and_leave_the_sequence(self, tmp_path):
        broken = make_unsplit(tmp_path, "llama")
        with torch.no_grad():
            broken.model.model.layers[3].mlp.down_proj.weight[0, 0] = torch.nan
        broken.model.save_pretrained(tmp_path / "broken")
        engine = load(spec_of(tmp_path / "broken", 0, LAYERS, layers=LAYERS))
        open_all([engine], [0])
        for _ in range(2):  # the second step is at position 0 as well
            (result,) = engine.step([tokens_item(0, 0, PROMPTS[0])])
            assert type(result) is EngineError
            assert "NaN" in str(result)

    def test_nan_logits_give_an_error_and_leave_the_sequence(self, tmp_path):
        broken = make_unsplit(tmp_path, "llama-untied")
        with torch.no_grad():
            broken.model.lm_head.weight[7, 0] = torch.nan
        broken.model.save_pretrained(tmp_path / "broken")
        engine = load(spec_of(tmp_path / "broken", 0, LAYERS, layers=LAYERS))
        open_all([engine], [0])
        for _ in range(2):
            (result,) = engine.step([tokens_item(0, 0, PROMPTS[0])])
            assert type(result) is EngineError

    def test_statistics_count_steps_and_rows(self, unsplit):
        engine = load(spec_of(unsplit("llama").directory, 0, 1, layers=LAYERS))
        open_all([engine], [0])
        item = tokens_item(0, 0, PROMPTS[0], output=Output.HIDDEN)
        engine.step([item, tokens_item(5, 0, [5])])
        statistics = engine.statistics()
        assert (statistics.steps, statistics.rows, statistics.sequences) == (1, 5, 1)
        assert statistics.busy_s > 0

    def test_sampled_tokens_are_drawn_again_after_a_rollback(self, whole):
        sampling = SamplingParameters.from_floats(
            temperature=1.5, seed=9, presence_penalty=1.0, frequency_penalty=0.5
        )
        whole.open(0, capacity_tokens=64, sampling=sampling)
        route = [(0, PROMPTS[1])]
        drawn = []
        for _ in range(12):
            position, tokens = route[-1]
            drawn.append(step_through([whole], {0: (position, tokens)}, wanted=lambda _: 1)[0])
            route.append((position + len(tokens), drawn[-1]))
        whole.truncate(0, route[4][0])
        again = [step_through([whole], {0: rows}, wanted=lambda _: 1)[0] for rows in route[4:-1]]
        assert again == drawn[4:]
        assert len({token for (token,) in drawn}) > 4


class TestTruncate:
    def test_unknown_sequence_and_unknown_position_are_refused(self, whole):
        with pytest.raises(StepInvalid, match="not open"):
            whole.truncate(0, 0)
        whole.open(0, capacity_tokens=8, sampling=GREEDY)
        for position in (-1, 1):
            with pytest.raises(StepInvalid, match="no position"):
                whole.truncate(0, position)


class TestInfo:
    def test_whole_and_part(self, shards):
        (whole,), (part, last) = shards("llama"), shards("llama", 2)
        assert (whole.info.backend, whole.info.family) == ("torch", "llama")
        assert (whole.info.layers, whole.info.hidden_size) == (LAYERS, 64)
        assert (whole.info.vocabulary_size, whole.info.context_tokens) == (2048, 2048)
        assert part.info.span == Span(0, 2)
        # 2 KV heads of 16 in fp32, keys and values, per layer
        assert part.info.kv_bytes_per_token == 2 * 2 * 2 * 16 * 4
        # tied: the first and the last shard both hold the embedding
        embedding_bytes = 2048 * 64 * 4
        layers_bytes = whole.info.weight_bytes - embedding_bytes
        assert part.info.weight_bytes + last.info.weight_bytes == layers_bytes + 2 * embedding_bytes


class TestImport:
    def test_importing_the_package_imports_no_torch(self):
        code = "import node.engine.torch_backend, sys; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
