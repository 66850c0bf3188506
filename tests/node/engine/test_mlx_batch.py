"""Many sequences in one pass of the MLX engine: each as if alone, whatever the others do."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.engine.base import Output, StepResult
from node.engine.errors import StepInvalid
from node.engine.mlx_backend import load
from protocol.errors import EngineError
from tests.node.engine.engine_cases import Route, spec_of, tokens_item
from tests.node.engine.mlx_cases import mx
from tests.node.engine.torch_cases import (
    CAPACITY,
    LAYERS,
    PROMPTS,
    Models,
    close_all,
    make_unsplit,
    open_all,
    prompt_of,
    step_through,
    torch,
)

SEQUENCES = 5
NAN_TOKEN = 7
FEW_BYTES = 16_384
"""Of small arrays that come and go, a row of logits (8 KiB) among them; a sequence takes 64 KiB."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.set_num_threads(1)
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def engines(models):
    made = {}

    def make(name):
        if name not in made:
            directory = models.unsplit(name).directory
            made[name] = load(spec_of(directory, 0, LAYERS, layers=LAYERS))
        return made[name]

    return make


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A model whose embedding of one token is NaN, and the whole one it was made from."""
    folder = tmp_path_factory.mktemp("broken")
    whole = make_unsplit(folder, "llama-untied")
    tokens = whole.next_tokens(PROMPTS[1])
    with torch.no_grad():
        whole.model.model.embed_tokens.weight[NAN_TOKEN] = torch.nan
    whole.model.save_pretrained(folder / "broken")
    assert whole.next_tokens(PROMPTS[1]) == tokens  # other tokens are as they were
    return load(spec_of(folder / "broken", 0, LAYERS, layers=LAYERS)), whole


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.lists(st.integers(0, 20), min_size=5, max_size=5)),
        st.tuples(st.just("decode"), st.lists(st.booleans(), min_size=5, max_size=5)),
        st.tuples(st.just("verify"), st.lists(st.integers(0, 6), min_size=5, max_size=5)),
        st.tuples(st.just("truncate"), st.integers(0, 4), st.floats(0, 1)),
        st.tuples(st.just("reopen"), st.integers(0, 4)),
    ),
    min_size=3,
    max_size=9,
)


class TestIndependence:
    @pytest.mark.parametrize("name", ["llama", "gemma2"])
    @settings(
        max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(operations=OPERATIONS, seed=st.integers(0, 1000))
    def test_joins_truncates_and_closes_leave_each_sequence_as_if_alone(
        self, name, operations, seed, models, engines
    ):
        engine, random = engines(name), np.random.default_rng(seed)
        held = {index: [] for index in range(SEQUENCES)}
        open_all([engine], held)
        try:
            for operation, *arguments in operations:
                match operation:
                    case "reopen":
                        close_all([engine], arguments)
                        open_all([engine], arguments)
                        held[arguments[0]] = []
                    case "truncate":
                        index, share = arguments
                        held[index] = held[index][: int(share * len(held[index]))]
                        engine.truncate(index, len(held[index]))
                    case _:
                        step(engine, held, arguments[0], random, models.unsplit(name))
        finally:
            close_all([engine], held)


def step(engine, held, sizes, random, unsplit):
    rows = {
        index: (len(held[index]), random.integers(5, 2000, int(size)).tolist())
        for index, size in enumerate(sizes)
        if size and len(held[index]) + int(size) <= CAPACITY
    }
    drawn = step_through([engine], rows) if rows else {}
    for index, (position, tokens) in rows.items():
        held[index] = held[index] + tokens
        assert drawn[index] == unsplit.next_tokens(held[index])[position:]


class TestRaggedVerify:
    @pytest.mark.parametrize("name", ["llama", "mistral", "gemma3_text", "mixtral", "deepseek_v3"])
    def test_drafts_of_unlike_lengths_go_in_one_step(self, name, models, engines):
        engine, unsplit = engines(name), models.unsplit(name)
        open_all([engine], range(3))
        step_through([engine], {index: (0, PROMPTS[index]) for index in range(3)})
        drafts = {index: prompt_of(1 + 2 * index, seed=index) for index in range(3)}
        for _ in range(2):  # the second after all of it was taken back
            found = step_through(
                [engine], {index: (len(PROMPTS[index]), drafts[index]) for index in range(3)}
            )
            for index in range(3):
                prompt = PROMPTS[index]
                expected = unsplit.next_tokens([*prompt, *drafts[index]])[len(prompt) :]
                assert found[index] == expected
                engine.truncate(index, len(prompt))
        close_all([engine], range(3))

    def test_hidden_states_are_those_of_each_sequence_alone(self, engines):
        engine = engines("llama")
        alone, together = [], []
        fields = {"output": Output.HIDDEN}
        open_all([engine], range(6))
        for index, prompt in enumerate(PROMPTS):
            (result,) = engine.step([tokens_item(index, 0, prompt[:14], wanted=1, **fields)])
            alone.append(result.hidden)
        batch = [tokens_item(3 + i, 0, PROMPTS[i][:14], wanted=1, **fields) for i in range(3)]
        together = [result.hidden for result in engine.step(batch)]
        # another shape of matrix product: other sums, in fp32 1e-6 apart and no more
        np.testing.assert_allclose(np.concatenate(together), np.concatenate(alone), rtol=1e-4)
        close_all([engine], range(6))


class TestNaN:
    def test_the_sequence_is_as_it_was_and_the_others_never_see_it(self, broken):
        engine, unsplit = broken
        held = [list(prompt) for prompt in PROMPTS]
        open_all([engine], range(3))
        step_through([engine], {index: (0, tokens) for index, tokens in enumerate(held)})
        for spoiled in ([NAN_TOKEN], [11, NAN_TOKEN, 12], [11, 12, NAN_TOKEN]):
            rows = [prompt_of(1, seed=4), prompt_of(3, seed=5)]
            batch = [
                tokens_item(0, len(held[0]), spoiled, wanted=len(spoiled)),
                tokens_item(1, len(held[1]), rows[0]),
                tokens_item(2, len(held[2]), rows[1]),
            ]
            failed, *others = engine.step(batch)
            assert type(failed) is EngineError
            assert "NaN" in str(failed)
            for index, result in enumerate(others, 1):
                held[index] += rows[index - 1]
                assert result.tokens.tolist() == unsplit.next_tokens(held[index])[-1:]
            # the failed rows lie behind the short sequence's end, within the long one's
            more = prompt_of(1, seed=6)
            drawn = step_through([engine], {i: (len(held[i]), more) for i in range(3)})
            for index in range(3):
                held[index] += more
                assert drawn[index] == unsplit.next_tokens(held[index])[-1:]
        close_all([engine], range(3))

    def test_rows_that_nobody_wants_count_too(self, broken):
        engine, _ = broken
        open_all([engine], [0])
        for _ in range(2):  # the second step is at position 0 as well
            (result,) = engine.step([tokens_item(0, 0, [NAN_TOKEN, 8], wanted=0)])
            assert type(result) is EngineError
        close_all([engine], [0])


class Hungry:
    """A layer that fails, when told to, as MLX does on a GPU without memory.

    On a CPU MLX does not raise then but ends the process; the worker's owner is told of that.
    """

    def __init__(self, layer):
        self.layer = layer
        self.fault = None

    def __call__(self, rows, mask, cache):
        rows = self.layer(rows, mask, cache)
        if self.fault is not None:
            raise RuntimeError(self.fault)
        return rows


class TestOutOfMemory:
    def test_a_step_without_memory_leaves_every_sequence_and_the_next_one_works(self, models):
        unsplit = models.unsplit("llama")
        from node.engine.mlx_backend.backend import MLXEngine
        from node.engine.mlx_backend.shard import load_shard

        spec = spec_of(unsplit.directory, 0, LAYERS, layers=LAYERS)
        shard = load_shard(spec)
        hungry = shard.model.model.layers[1] = Hungry(shard.model.model.layers[1])
        engine = MLXEngine(spec, shard)
        open_all([engine], [0, 1])
        first, second = PROMPTS[1:]
        step_through([engine], {0: (0, first[:9])})
        batch = [
            tokens_item(0, 9, first[9:], wanted=8),
            tokens_item(5, 0, [3]),
            tokens_item(1, 0, second[:6], wanted=6),
        ]
        hungry.fault = "[metal::malloc] Attempting to allocate more than there is"
        results = engine.step(batch)
        assert [type(result) for result in results] == [EngineError, StepInvalid, EngineError]
        assert "no memory" in str(results[0])
        hungry.fault = None
        results = engine.step(batch)
        assert results[0].tokens.tolist() == unsplit.next_tokens(first)[9:]
        assert results[2].tokens.tolist() == unsplit.next_tokens(second[:6])
        hungry.fault = "something else"  # no item's fault: the worker ends with it
        with pytest.raises(RuntimeError, match="something else"):
            engine.step([tokens_item(1, 6, [3])])


class TestMemory:
    def test_sequences_take_what_they_use_and_give_it_back(self, models):
        directory = models.unsplit("llama").directory
        engine = load(spec_of(directory, 0, LAYERS, layers=LAYERS))
        mx.clear_cache()
        before = mx.get_active_memory()
        row_bytes = engine.info.kv_bytes_per_token
        open_all([engine], range(4), capacity=2000)
        assert mx.get_active_memory() - before <= FEW_BYTES
        step_through([engine], {index: (0, prompt_of(60, seed=index)) for index in range(4)})
        for turn in range(3):
            step_through([engine], {index: (60 + turn, [9]) for index in range(4)})
        held = mx.get_active_memory() - before
        assert 4 * 63 * row_bytes <= held <= 1.15 * 4 * 64 * row_bytes + FEW_BYTES
        close_all([engine], range(1, 4))
        assert mx.get_active_memory() - before <= 1.15 * 64 * row_bytes + FEW_BYTES
        close_all([engine], [0])
        assert mx.get_active_memory() - before <= FEW_BYTES

    def test_a_long_sequence_does_not_make_short_ones_long(self, models):
        directory = models.unsplit("llama").directory
        engine = load(spec_of(directory, 0, LAYERS, layers=LAYERS))
        mx.clear_cache()
        before = mx.get_active_memory()
        engine.open(0, capacity_tokens=640, sampling=None)
        for index in range(1, 8):
            engine.open(index, capacity_tokens=64, sampling=None)
        fields = {"output": Output.HIDDEN}
        for start in (0, 300):
            engine.step([tokens_item(0, start, prompt_of(300), **fields)])
        batch = [tokens_item(0, 600, [9], **fields)]
        batch += [tokens_item(index, 0, [9 + index], **fields) for index in range(1, 8)]
        assert all(isinstance(result, StepResult) for result in engine.step(batch))
        held = mx.get_active_memory() - before
        assert held <= 1.15 * (640 + 7 * 64) * engine.info.kv_bytes_per_token + FEW_BYTES

    def test_sealed_ends_keep_none(self, models):
        from tests.node.engine.engine_cases import ends_of

        ends = load(ends_of(models.unsplit("llama").directory, kv_tokens=0))
        hops = [load(spec_of(models.unsplit("llama").directory, 0, LAYERS, layers=LAYERS))]
        route = Route([ends, *hops, ends])
        assert route.generate(PROMPTS[0], 4) == models.expected("llama")[0][:4]
        assert ends.statistics().kv_tokens_reserved == 0
