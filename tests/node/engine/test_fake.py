import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.base import Output, StepItem, StepResult
from node.engine.errors import ModelNotFound, ModelUnsupported, OutOfKV, ShardMismatch, StepInvalid
from node.engine.fake import load
from node.engine.wire import encode
from protocol.route import Span
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype
from tests.node.engine.engine_cases import (
    FAKE_LAYERS,
    GREEDY,
    Route,
    cuts,
    ends_of,
    spec_of,
    tokens_item,
    write_fake_model,
)

PROMPT = [5, 999, 0, 251, 77, 502, 31, 8, 8, 8, 600]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_fake_model(tmp_path_factory.mktemp("fake"))


@pytest.fixture(scope="module")
def whole(directory):
    return load(spec_of(directory, 0, FAKE_LAYERS))


@pytest.fixture(scope="module")
def expected(whole):
    return Route([whole]).generate(PROMPT, 24)


class TestSplitting:
    @pytest.mark.parametrize("count", [1, 2, 3, 6])
    @pytest.mark.parametrize("wire", [w for w in WireDtype if w is not WireDtype.INT8B32H])
    def test_any_cut_gives_the_tokens_of_the_whole(self, directory, expected, count, wire):
        shards = [load(spec_of(directory, *cut)) for cut in cuts(FAKE_LAYERS, count)]
        assert Route(shards, wire=wire).generate(PROMPT, 24, chunk=4) == expected

    def test_int8b32h_rounds_alike_in_any_chunks(self, directory, expected):
        shards = [load(spec_of(directory, *cut)) for cut in cuts(FAKE_LAYERS, 3)]
        first, second = (
            Route(shards, wire=WireDtype.INT8B32H).generate(PROMPT, 24, chunk=chunk)
            for chunk in (4, 512)
        )
        assert first == second != expected

    def test_a_sealed_route_gives_the_same_tokens(self, directory, expected):
        ends = load(ends_of(directory))
        spans = [(0, 2), (2, 6)]
        hops = [load(spec_of(directory, *span, embeds=False, has_head=False)) for span in spans]
        assert Route([ends, *hops, ends]).generate(PROMPT, 24) == expected

    @given(
        prompt=st.lists(st.integers(0, 999), min_size=1, max_size=20),
        cut=st.integers(1, FAKE_LAYERS - 1),
        chunk=st.integers(1, 20),
    )
    def test_cut_and_chunk_never_matter(self, whole, directory, prompt, cut, chunk):
        shards = [load(spec_of(directory, 0, cut)), load(spec_of(directory, cut, FAKE_LAYERS))]
        reference = Route([whole])
        assert Route(shards).generate(prompt, 4, chunk=chunk) == reference.generate(prompt, 4)
        reference.close()


class TestState:
    @pytest.mark.parametrize("k", [1, 4, 9])
    def test_verify_and_truncate_give_the_same_tokens(self, whole, expected, k):
        assert Route([whole]).generate_drafted(PROMPT, expected, k) == expected

    def test_a_row_at_a_wrong_position_changes_the_tokens(self, whole, expected):
        route = Route([whole])
        assert route.generate([PROMPT[-1], *PROMPT[:-1]], 24) != expected

    def test_a_forgotten_truncate_is_refused(self, whole):
        route = Route([whole])
        route.step(0, [1, 2, 3])
        with pytest.raises(AssertionError, match="the step is at 2"):
            route.step(2, [4])

    def test_truncate_past_the_end_is_refused(self, whole):
        route = Route([whole])
        route.step(0, [1, 2, 3])
        with pytest.raises(StepInvalid):
            route.truncate(4)

    def test_sampling_is_keyed_by_seed_and_position(self, whole, expected):
        tokens = [
            Route([whole], sampling=SamplingParameters(seed=seed)).generate(PROMPT, 24)
            for seed in (1, 1, 2)
        ]
        assert tokens[0] == tokens[1]
        assert len({*map(tuple, tokens), tuple(expected)}) == 3

    def test_an_invalid_item_leaves_its_sequence_and_the_others_alone(self, directory):
        engine = load(spec_of(directory, 0, FAKE_LAYERS))
        for sequence_id in (1, 2):
            engine.open(sequence_id, capacity_tokens=4, sampling=GREEDY)
        bad = [
            tokens_item(1, 1, [3]),
            tokens_item(1, 0, [1000]),
            tokens_item(1, 0, [-1]),
            tokens_item(1, 0, [1, 2, 3, 4, 5]),
            tokens_item(1, 0, [1], output=Output.HIDDEN, wanted=2),
            tokens_item(9, 0, [1]),
            tokens_item(1, 0, [1], hidden=np.zeros((1, 16), np.float32)),
        ]
        good = tokens_item(2, 0, [3])
        for item in bad:
            refused, ran = engine.step([item, good])
            assert isinstance(refused, StepInvalid)
            assert isinstance(ran, StepResult)
            engine.truncate(2, 0)
        assert isinstance(engine.step([tokens_item(1, 0, [3])])[0], StepResult)

    def test_tokens_need_the_embedding_and_sampling(self, directory):
        engine = load(spec_of(directory, 2, 4))
        engine.open(1, capacity_tokens=4, sampling=None)
        (result,) = engine.step([tokens_item(1, 0, [1], output=Output.HIDDEN)])
        assert isinstance(result, StepInvalid)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, 0.0])
    @pytest.mark.parametrize("wire", WireDtype)
    def test_not_a_number_from_a_peer_is_refused(self, directory, value, wire):
        engine = load(spec_of(directory, 2, 4))
        engine.open(1, capacity_tokens=4, sampling=None)
        if wire in (WireDtype.FP32, WireDtype.BF16):
            hidden = encode(np.full((1, 16), value, np.float32), wire)
        else:  # a block's scale is the only number that can be infinite
            hidden = encode(np.zeros((1, 16), np.float32), wire)
            if not np.isfinite(value):
                bits = encode(np.full((1, 1), value, np.float32), WireDtype.BF16)
                hidden[:, :2] = bits.view(np.uint8)
        (result,) = engine.step([StepItem(1, 0, 1, 1, Output.HIDDEN, wire, hidden=hidden)])
        assert isinstance(result, StepResult if np.isfinite(value) else StepInvalid)

    def test_a_sequence_stands_in_a_batch_once(self, directory):
        engine = load(ends_of(directory))
        engine.open(1, capacity_tokens=4, sampling=GREEDY)
        first, second = engine.step([tokens_item(1, 0, [1]), tokens_item(1, 1, [1])])
        assert isinstance(first, StepResult)
        assert isinstance(second, StepInvalid)


class TestBudget:
    def test_opening_reserves_and_closing_frees(self, directory):
        engine = load(spec_of(directory, 0, 3, kv_tokens=100))
        engine.open(1, capacity_tokens=60, sampling=None)
        with pytest.raises(OutOfKV):
            engine.open(2, capacity_tokens=41, sampling=None)
        with pytest.raises(StepInvalid):
            engine.open(1, capacity_tokens=1, sampling=None)
        assert engine.statistics().kv_tokens_reserved == 60
        engine.close(1)
        engine.close(1)
        engine.open(2, capacity_tokens=100, sampling=None)

    def test_a_shard_without_layers_reserves_nothing(self, directory):
        engine = load(ends_of(directory, kv_tokens=10))
        engine.open(1, capacity_tokens=1000, sampling=GREEDY)
        assert engine.statistics().kv_tokens_reserved == 0


NAMES = [bytes([index]) * 32 for index in range(5)]


class TestPrefix:
    def open(self, engine, sequence_id, *, capacity=300, span=None):
        return engine.open(
            sequence_id, capacity_tokens=capacity, sampling=GREEDY, span=span, prefix=NAMES
        )

    def test_tokens_after_a_reused_prefix_are_those_of_a_fresh_run(self, directory):
        engine = load(spec_of(directory, 0, FAKE_LAYERS))
        prompt = [index * 37 % 1000 for index in range(200)]
        drawn = []
        for sequence_id, reused, end in ((1, 0, 200), (2, 192, 200), (3, 192, 100), (4, 192, 200)):
            assert self.open(engine, sequence_id) == reused
            if end < reused:
                engine.truncate(sequence_id, end)
                reused = end
            (result,) = engine.step([tokens_item(sequence_id, reused, prompt[reused:])])
            drawn.append(result.tokens.tolist())
            engine.close(sequence_id, keep=NAMES)
        assert drawn == drawn[:1] * 4
        statistics = engine.statistics()
        assert (statistics.kv_tokens_cached, statistics.reused_tokens) == (192, 3 * 192)

    def test_rows_are_reused_for_the_same_layers_only_and_give_way(self, directory):
        engine = load(spec_of(directory, 0, FAKE_LAYERS, kv_tokens=300))
        self.open(engine, 1, capacity=130)
        engine.step([tokens_item(1, 0, [5] * 130)])
        engine.close(1, keep=NAMES)
        assert self.open(engine, 2, capacity=130, span=Span(0, 3)) == 0
        assert engine.statistics().kv_tokens_cached == 128
        engine.open(3, capacity_tokens=170, sampling=GREEDY)
        assert engine.statistics().kv_tokens_cached == 0

    def test_a_shard_without_layers_reuses_nothing(self, directory):
        engine = load(ends_of(directory))
        assert self.open(engine, 1) == 0
        engine.close(1, keep=NAMES)
        assert self.open(engine, 1) == 0


class TestLoad:
    def test_no_config(self, tmp_path):
        with pytest.raises(ModelNotFound):
            load(spec_of(tmp_path, 0, 1))

    @pytest.mark.parametrize("text", ["{}", "[]", "{", json.dumps({"num_hidden_layers": "x"})])
    def test_a_config_that_is_none(self, tmp_path, text):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ModelUnsupported):
            load(spec_of(tmp_path, 0, 1))

    @pytest.mark.parametrize(
        ("start", "end", "ends"),
        [
            (0, 7, {}),
            (3, 3, {"embeds": False, "has_head": False}),
            (1, 3, {"embeds": True}),
            (0, 3, {"has_head": True}),
        ],
    )
    def test_a_span_that_does_not_fit(self, directory, start, end, ends):
        with pytest.raises(ShardMismatch):
            load(spec_of(directory, start, end, **ends))
