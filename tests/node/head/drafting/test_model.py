"""The draft model: follows the branch whatever comes, over a real runner and a fake engine."""

import asyncio
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.engine.async_engine import LocalEngine
from node.engine.errors import QueueFull
from node.engine.fake import load
from node.engine.runner import EngineRunner
from node.head.drafting.ahead import Ahead
from node.head.drafting.base import Draft
from node.head.drafting.model import FEED_TOKENS, DraftModel
from protocol.errors import EngineError
from protocol.sampling import SamplingParameters
from tests.node.engine.engine_cases import FAKE_LAYERS, Route, spec_of, write_fake_model

GREEDY = SamplingParameters(temperature_millionths=0)
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    directory = write_fake_model(tmp_path_factory.mktemp("draft") / "small")
    return spec_of(directory, 0, FAKE_LAYERS)


@pytest.fixture
async def runner(spec):
    runner = EngineRunner(LocalEngine(lambda: load(spec)))
    yield runner
    await runner.stop()


def answer(spec, prompt, count, sampling=GREEDY):
    """What the model says by itself, one token at a time."""
    route = Route([load(spec)], sampling=sampling, capacity=len(prompt) + count)
    return tuple(route.generate(list(prompt), count))


async def opened(runner, *, prompt=PROMPT, sampling=GREEDY, capacity=200, vocabulary=1000):
    model = DraftModel(
        runner, sampling=sampling, capacity_tokens=capacity, vocabulary_size=vocabulary
    )
    await model.open()
    model.confirm(prompt)
    return model


class TestPropose:
    @pytest.mark.parametrize("seed", [None, 7])
    async def test_says_what_the_model_would(self, spec, runner, seed):
        sampling = GREEDY if seed is None else SamplingParameters(seed=seed)
        model = await opened(runner, sampling=sampling)
        draft = await model.propose(PROMPT, 6)
        assert draft == Draft(answer(spec, PROMPT, 6, sampling), "model")

    async def test_goes_on_where_its_draft_held(self, spec, runner):
        model = await opened(runner)
        first = (await model.propose(PROMPT, 3)).tokens
        steps = (await runner.statistics()).engine.rows
        assert (await model.propose([*PROMPT, *first[:2]], 1)).tokens == first[2:]
        assert (await runner.statistics()).engine.rows == steps
        more = (await model.propose([*PROMPT, *first], 3)).tokens
        assert first + more == answer(spec, PROMPT, 6)

    async def test_goes_back_where_it_did_not(self, spec, runner):
        model = await opened(runner)
        first = (await model.propose(PROMPT, 4)).tokens
        branch = [*PROMPT, first[0], (first[1] + 1) % 1000]
        model.confirm(branch[len(PROMPT) :])
        assert (await model.propose(branch, 3)).tokens == answer(spec, branch, 3)

    async def test_a_long_prompt_is_fed_in_chunks(self, spec, runner):
        prompt = [n % 97 for n in range(2 * FEED_TOKENS + 5)]
        model = await opened(runner, prompt=prompt, capacity=len(prompt) + 9)
        draft = await model.propose(prompt, 2)
        assert draft.tokens == answer(spec, prompt, 2)
        assert (await runner.statistics()).engine.steps >= 4

    async def test_stops_at_its_capacity(self, runner):
        model = await opened(runner, capacity=len(PROMPT) + 2)
        assert len((await model.propose(PROMPT, 9)).tokens) == 3
        assert await model.propose([*PROMPT, 1, 2, 3], 9) is None
        assert model.source([*PROMPT, 1, 2, 3]) is None

    async def test_says_no_token_that_the_large_model_does_not_have(self, spec, runner):
        plain = answer(spec, PROMPT, 12)
        largest = max(plain)
        model = await opened(runner, vocabulary=largest)
        draft = await model.propose(PROMPT, 12)
        assert draft is None or draft.tokens == plain[: plain.index(largest)]

    async def test_a_token_it_does_not_have_is_an_error(self, runner):
        model = await opened(runner)
        with pytest.raises(EngineError):
            await model.propose([*PROMPT, 5000], 2)


class CrowdedRunner(EngineRunner):
    """Has its queue full of other answers' drafts from a step on."""

    def __init__(self, engine, *, free_steps):
        super().__init__(engine)
        self.free_steps = free_steps

    async def submit(self, item, *, lease_key=None):
        self.free_steps -= 1
        if self.free_steps < 0:
            raise QueueFull("The queue is full.")
        return await super().submit(item, lease_key=lease_key)


async def test_a_full_queue_is_no_reason_to_give_up(spec):
    runner = CrowdedRunner(LocalEngine(lambda: load(spec)), free_steps=2)
    model = await opened(runner)
    assert await model.propose(PROMPT, 4) is None
    runner.free_steps = 100
    assert (await model.propose(PROMPT, 4)).tokens == answer(spec, PROMPT, 4)
    await model.close()
    await runner.stop()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
async def test_follows_any_branch_and_outlives_any_cancellation(spec, data):
    runner = EngineRunner(LocalEngine(lambda: load(spec)))
    try:
        model = await opened(runner)
        confirmed, tail = list(PROMPT), []
        for _ in range(data.draw(st.integers(1, 8))):
            tail += data.draw(st.lists(st.integers(0, 9), max_size=3))
            task = asyncio.create_task(model.propose([*confirmed, *tail], 3))
            for _ in range(data.draw(st.integers(0, 12))):
                await asyncio.sleep(0)
            if not task.done() and data.draw(st.booleans()):
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            else:
                branch = [*confirmed, *tail]
                assert (await task).tokens == answer(spec, branch, 3)
            held = data.draw(st.integers(0, len(tail)))
            # a branch loses its tail only where another token was drawn
            token = data.draw(st.integers(0, 9))
            token += tail[held : held + 1] == [token]
            fresh, tail = [*tail[:held], token], []
            confirmed += fresh
            model.confirm(fresh)
    finally:
        await runner.stop()


async def test_a_dead_engine_is_told_once_and_ends_the_drafting(spec, caplog):
    engine = LocalEngine(lambda: load(spec))
    runner = EngineRunner(engine)
    model = DraftModel(runner, sampling=GREEDY, capacity_tokens=99, vocabulary_size=1000)
    model.confirm(PROMPT)
    ahead = Ahead(model)
    with caplog.at_level(logging.WARNING, logger="node.head.drafting"):
        ahead.start(PROMPT, 2)
        engine.die()
        for _ in range(3):
            await ahead.wait(5.0)
            ahead.start(PROMPT, 2)
    assert ahead.failed
    assert ahead.task is None
    assert len([r for r in caplog.records if r.name.startswith("node.head")]) == 1
    await ahead.close()
    await runner.stop()
