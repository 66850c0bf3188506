"""A sequence opened anew with the tokens drawn so far draws on as if it had never moved."""

import contextlib
import itertools
import shutil

import numpy as np
import pytest

from node.engine import fake
from node.engine.async_engine import LocalEngine
from node.engine.base import Output, StepItem, StepResult
from node.engine.errors import StepInvalid
from node.engine.message import decode_drawn, encode_drawn
from node.engine.runner import EngineRunner
from node.engine.worker import EngineWorker
from protocol.errors import EngineError
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype
from tests.node.engine.engine_cases import (
    FAKE_LAYERS,
    GREEDY,
    ends_of,
    spec_of,
    tokens_item,
    write_fake_model,
)

LAYERS = 4
CAPACITY = 128
PROMPT = [int(token) for token in np.random.default_rng(3).integers(5, 2000, 40)]
MOVED_AFTER, COUNT = 24, 40
"""Tokens that were drawn before the move, and in all."""
PENALTIES = {
    "greedy": SamplingParameters.from_floats(
        temperature=0, frequency_penalty=1.5, presence_penalty=1.0
    ),
    "sampled": SamplingParameters.from_floats(
        temperature=0.6, frequency_penalty=-1.2, presence_penalty=-0.8, seed=5
    ),
}
"""Greedy shuns what it said, and the seeded one seeks it: both lean on every count."""
RESUME = len(PROMPT) + MOVED_AFTER - 1
"""Rows before the next step: of the tokens drawn, the last has not been fed yet."""
NAN_TOKEN = 2000
_ids = itertools.count(1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    torch = pytest.importorskip("torch", reason="checkpoints are made with torch")
    pytest.importorskip("transformers", reason="checkpoints are made with transformers")
    from tools.tiny_checkpoints import make_checkpoint

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("drawn") / "llama"
    return make_checkpoint(folder, "llama", layers=LAYERS, tie_word_embeddings=False)


@pytest.fixture(scope="module", params=["torch", "mlx"])
def backend(request):
    if request.param == "mlx":
        pytest.importorskip("mlx_lm", reason="the MLX backend is not installed")
    return request.param


@pytest.fixture(scope="module")
def engine(backend, directory):
    return load(backend, spec_of(directory, 0, LAYERS, layers=LAYERS))


def load(backend, spec):
    if backend == "mlx":
        from node.engine.mlx_backend import load
    else:
        from node.engine.torch_backend import load
    return load(spec)


@pytest.fixture(scope="module")
def broken(backend, directory, tmp_path_factory):
    """A model whose embedding of one token is NaN: rows of it fail after the layers."""
    from safetensors.numpy import load_file, save_file

    whole = tmp_path_factory.mktemp("broken") / "model"
    shutil.copytree(directory, whole)
    name = "model.embed_tokens.weight"
    for path in whole.glob("*.safetensors"):
        tensors = load_file(path)
        if name in tensors:
            tensors[name][NAN_TOKEN] = np.nan
            save_file(tensors, path, metadata={"format": "pt"})
    return load(backend, spec_of(whole, 0, LAYERS, layers=LAYERS))


@contextlib.contextmanager
def opened(engine, sampling, **fields):
    sequence_id = next(_ids)
    engine.open(sequence_id, capacity_tokens=CAPACITY, sampling=sampling, **fields)
    yield sequence_id
    engine.close(sequence_id)


def run(engine, item):
    (result,) = engine.step([item])
    assert isinstance(result, StepResult), result
    return result.tokens.tolist()


def decode_on(engine, sequence_id, tokens):
    """`tokens`: the prompt's and those drawn, the last of them not fed yet; gives COUNT drawn."""
    tokens = list(tokens)
    while len(tokens) < len(PROMPT) + COUNT:
        tokens += run(engine, tokens_item(sequence_id, len(tokens) - 1, tokens[-1:]))
    return tokens[len(PROMPT) :]


def undisturbed(engine, sampling):
    with opened(engine, sampling) as sequence_id:
        first = run(engine, tokens_item(sequence_id, 0, PROMPT))
        return decode_on(engine, sequence_id, PROMPT + first)


@pytest.fixture(scope="module", params=PENALTIES)
def case(request, engine):
    """Sampling parameters, and all the tokens that the undisturbed sequence drew."""
    sampling = PENALTIES[request.param]
    return sampling, undisturbed(engine, sampling)


@pytest.fixture
def past(case):
    """The rows that were, and what open is told of the tokens drawn."""
    rows = PROMPT + case[1][:MOVED_AFTER]
    return rows, {"drawn": case[1][:MOVED_AFTER], "drawn_at": len(PROMPT)}


class TestMoved:
    def test_draws_what_the_undisturbed_one_draws(self, engine, case, past):
        sampling, expected = case
        rows, drawn = past
        with opened(engine, sampling, **drawn) as sequence_id:
            for start, end in itertools.pairwise((0, 25, 50, RESUME)):
                run(engine, tokens_item(sequence_id, start, rows[start:end], wanted=0))
            assert decode_on(engine, sequence_id, rows) == expected

    def test_without_them_it_draws_others(self, engine, case, past):
        sampling, expected = case
        with opened(engine, sampling) as sequence_id:
            run(engine, tokens_item(sequence_id, 0, past[0][:RESUME], wanted=0))
            assert decode_on(engine, sequence_id, past[0]) != expected

    def test_verifying_drafts_draws_the_same(self, engine, case, past):
        sampling, expected = case
        rows, drawn = past
        drafts = [*expected[MOVED_AFTER : MOVED_AFTER + 3], 7]
        with opened(engine, sampling, **drawn) as sequence_id:
            run(engine, tokens_item(sequence_id, 0, rows[:RESUME], wanted=0))
            verified = run(
                engine, tokens_item(sequence_id, RESUME, [rows[RESUME], *drafts], wanted=5)
            )
            assert verified[:4] == expected[MOVED_AFTER : MOVED_AFTER + 4]
            engine.truncate(sequence_id, RESUME + 4)
            assert decode_on(engine, sequence_id, PROMPT + expected[: MOVED_AFTER + 4]) == expected

    def test_a_replay_may_go_back_and_come_again(self, engine, case, past):
        sampling, expected = case
        rows, drawn = past
        with opened(engine, sampling, **drawn) as sequence_id:
            engine.truncate(sequence_id, 0)
            run(engine, tokens_item(sequence_id, 0, rows[:60], wanted=0))
            for position in (50, 10):
                engine.truncate(sequence_id, position)
            run(engine, tokens_item(sequence_id, 10, rows[10:RESUME], wanted=0))
            assert decode_on(engine, sequence_id, rows) == expected

    def test_a_truncate_after_the_replay_voids_what_was_drawn_behind(self, engine, case, past):
        sampling, expected = case
        rows, drawn = past
        kept = len(PROMPT) + 10
        forced = [11, 12, 13]
        tokens = []
        for options, opening in (({}, 1), (drawn, RESUME)):
            with opened(engine, sampling, **options) as sequence_id:
                if options:
                    run(engine, tokens_item(sequence_id, 0, rows[:opening], wanted=0))
                else:
                    drawn_again = run(engine, tokens_item(sequence_id, 0, PROMPT))
                    for place in range(len(PROMPT), RESUME):
                        drawn_again += run(engine, tokens_item(sequence_id, place, [rows[place]]))
                    assert drawn_again == expected[:MOVED_AFTER]
                engine.truncate(sequence_id, kept)
                tokens.append(run(engine, tokens_item(sequence_id, kept, forced)))
        assert tokens[0] == tokens[1]


class TestFailed:
    @pytest.mark.parametrize("wanted", [0, 1])
    def test_a_step_that_failed_leaves_them(self, broken, wanted):
        sampling = PENALTIES["sampled"]
        expected = undisturbed(broken, sampling)
        drawn = expected[:MOVED_AFTER]
        rows = PROMPT + drawn
        with opened(broken, sampling, drawn=drawn, drawn_at=len(PROMPT)) as sequence_id:
            for start, end in ((0, 30), (30, RESUME), (RESUME, RESUME)):
                bad = tokens_item(sequence_id, start, [NAN_TOKEN] * 5, wanted=wanted)
                (refused,) = broken.step([bad])
                assert isinstance(refused, EngineError)
                if end > start:
                    run(broken, tokens_item(sequence_id, start, rows[start:end], wanted=0))
            assert decode_on(broken, sequence_id, rows) == expected


class TestEnds:
    def test_a_shard_without_layers_is_told_too(self, backend, directory):
        """There, where no rows are kept, a truncate voids by position alone."""
        ends = load(backend, ends_of(directory))
        sampling = PENALTIES["greedy"]
        hidden = np.random.default_rng(0).normal(size=(1, ends.info.hidden_size))

        def draw(sequence_id, position):
            return run(ends, StepItem(
                sequence_id, position, 1, 1, Output.TOKENS, WireDtype.FP32,
                hidden=hidden.astype(np.float32),
            ))  # fmt: skip

        with opened(ends, sampling) as sequence_id:
            expected = [draw(sequence_id, position)[0] for position in range(10, 20)]
        assert len(set(expected)) > 1
        with opened(ends, sampling, drawn=expected[:6], drawn_at=11) as sequence_id:
            assert [draw(sequence_id, place)[0] for place in range(16, 20)] == expected[6:]
            ends.truncate(sequence_id, 10)
            assert draw(sequence_id, 30) == expected[:1]


class TestWorker:
    async def test_carries_them_to_the_engine(self, backend, directory, engine):
        sampling = PENALTIES["sampled"]
        expected = undisturbed(engine, sampling)
        rows = PROMPT + expected[:MOVED_AFTER]
        drawn = {"drawn": expected[:MOVED_AFTER], "drawn_at": len(PROMPT)}
        spec = spec_of(directory, 0, LAYERS, layers=LAYERS)
        worker = await EngineWorker.start(spec, backend=backend)
        runner = EngineRunner(worker)
        try:
            await runner.open(1, capacity_tokens=CAPACITY, sampling=sampling, **drawn)
            await runner.submit(tokens_item(1, 0, rows[:RESUME], wanted=0))
            tokens = rows[RESUME:]
            while len(tokens) <= COUNT - MOVED_AFTER:
                place = RESUME + len(tokens) - 1
                result = await runner.submit(tokens_item(1, place, tokens[-1:]))
                tokens += result.tokens.tolist()
            assert tokens[1:] == expected[MOVED_AFTER:]
        finally:
            await runner.stop()

    def test_the_message_keeps_every_id(self):
        drawn = [0, 1, 2**20 - 1, 2**31 - 1]
        assert decode_drawn(encode_drawn(drawn)) == drawn
        assert len(encode_drawn(drawn)) == 16
        assert decode_drawn(encode_drawn(())) == []


REFUSED = {
    "too many": ([1] * 129, 0),
    "past the end": ([1] * 4, 126),
    "before the beginning": ([1], -1),
    "an id below": ([1, -1], 10),
    "an id above": ([2**40], 10),
}
"""For a capacity of 128."""


class TestRefused:
    @pytest.mark.parametrize("reason", REFUSED)
    def test_and_nothing_is_opened(self, engine, reason):
        drawn, drawn_at = REFUSED[reason]
        before = engine.statistics()
        with pytest.raises(StepInvalid, match="drawn token"):
            engine.open(
                9, capacity_tokens=CAPACITY, sampling=GREEDY, drawn=drawn, drawn_at=drawn_at
            )
        assert engine.statistics() == before

    def test_the_vocabulary_ends_before_its_size(self, engine):
        size = engine.info.vocabulary_size
        with opened(engine, GREEDY, drawn=[size - 1], drawn_at=CAPACITY):
            """The last token of all, behind the last row."""
        with pytest.raises(StepInvalid, match=rf"outside \[0, {size}\)"):
            engine.open(9, capacity_tokens=CAPACITY, sampling=GREEDY, drawn=[size], drawn_at=5)


class TestFake:
    @pytest.fixture
    def spec(self, tmp_path):
        return spec_of(write_fake_model(tmp_path), 0, FAKE_LAYERS)

    @pytest.mark.parametrize("sampling", PENALTIES.values(), ids=PENALTIES)
    def test_draws_the_same_with_and_without(self, spec, sampling):
        engine = fake.load(spec)
        drawn = []
        for options in ({}, {"drawn": [5, 5, 9], "drawn_at": 2}):
            with opened(engine, sampling, **options) as sequence_id:
                drawn.append(run(engine, tokens_item(sequence_id, 0, [1, 2, 5, 5], wanted=4)))
        assert drawn[0] == drawn[1]

    @pytest.mark.parametrize("reason", REFUSED)
    async def test_refuses_through_every_layer(self, spec, reason):
        drawn, drawn_at = REFUSED[reason]
        options = {"capacity_tokens": CAPACITY, "sampling": GREEDY}
        past = {"drawn": drawn, "drawn_at": drawn_at}
        runner = EngineRunner(LocalEngine(lambda: fake.load(spec)))
        try:
            with pytest.raises(StepInvalid, match="drawn token"):
                await runner.open(1, **options, **past)
            assert await runner.open(1, **options) == 0
        finally:
            await runner.stop()

    async def test_a_worker_refuses_and_goes_on(self, spec):
        worker = await EngineWorker.start(spec, backend="fake")
        try:
            for drawn, drawn_at in REFUSED.values():
                with pytest.raises(StepInvalid, match="drawn token"):
                    await worker.open(
                        1, capacity_tokens=CAPACITY, sampling=GREEDY, drawn=drawn, drawn_at=drawn_at
                    )
            past = {"drawn": [3, 4], "drawn_at": 8}
            assert await worker.open(1, capacity_tokens=CAPACITY, sampling=GREEDY, **past) == 0
        finally:
            await worker.stop()
