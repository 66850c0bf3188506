"""A step that runs in parts is one step to its caller: it runs or fails whole."""

import asyncio

import numpy as np
import pytest

from node.engine.base import Output
from node.engine.errors import EngineDied, StepCancelled, StepInvalid
from node.engine.fake import load
from node.engine.prefill_share import PREFILL_ROWS_FIRST
from node.engine.runner import EngineRunner
from protocol.errors import EngineError
from tests.node.engine.engine_cases import (
    FAKE_LAYERS,
    GREEDY,
    Route,
    spec_of,
    tokens_item,
    write_fake_model,
)
from tests.node.engine.test_runner import QUICK, ObservedEngine, in_flight

PROMPT = [(7 * index) % 251 for index in range(200)]
BEGIN = [9, 9, 9]
PARTS = -(-len(PROMPT) // PREFILL_ROWS_FIRST)


@pytest.fixture
def spec(tmp_path):
    return spec_of(write_fake_model(tmp_path), 0, FAKE_LAYERS)


@pytest.fixture
async def engine(spec):
    return ObservedEngine(lambda: load(spec))


@pytest.fixture
async def runner(engine):
    # Under a clock that stands still nothing is learned, and every part has its first size.
    runner = EngineRunner(engine, restart_limits=QUICK, clock=lambda: 0.0)
    for sequence_id in (1, 2, 3):
        await runner.open(sequence_id, capacity_tokens=512, sampling=GREEDY)
        await runner.submit(tokens_item(sequence_id, 0, BEGIN))
    engine.calls.clear()
    yield runner
    await runner.stop()


def prefill(**fields):
    return tokens_item(1, len(BEGIN), PROMPT, **fields)


async def part_in_flight(engine, runner, *, part):
    """A prefill of which so many parts have run or run now; the last of them is held back."""
    engine.gate.clear()
    stepping = asyncio.create_task(runner.submit(prefill()))
    await in_flight(engine)
    for _ in range(1, part):
        await next_in_flight(engine)
    return stepping


async def next_in_flight(engine):
    """Let the step that is held back run, and hold back the next."""
    engine.gate.set()  # wakes the one that waits
    engine.gate.clear()
    await in_flight(engine)


async def same_as_before(runner, spec):
    """Sequence 1 has BEGIN and nothing else: the same step gives the same tokens as ever."""
    expected = Route([load(spec)], capacity=512)
    expected.step(0, BEGIN)
    result = await runner.submit(prefill(wanted=5))
    assert result.tokens.tolist() == expected.step(len(BEGIN), PROMPT, wanted=5).tolist()


class TestWhole:
    @pytest.mark.parametrize("wanted", [0, 1, 70, len(PROMPT)])
    @pytest.mark.parametrize("output", Output)
    async def test_yields_what_one_step_yields(self, engine, runner, spec, wanted, output):
        alone = load(spec)
        alone.open(1, capacity_tokens=512, sampling=GREEDY)
        alone.step([tokens_item(1, 0, BEGIN)])
        (expected,) = alone.step([prefill(wanted=wanted, output=output)])
        result = await runner.submit(prefill(wanted=wanted, output=output))
        assert engine.calls == [("step", 1)] * PARTS
        for ours, theirs in ((result.tokens, expected.tokens), (result.hidden, expected.hidden)):
            np.testing.assert_array_equal(ours, theirs)

    async def test_decodes_run_between_and_steps_behind_it_wait(self, engine, runner, spec):
        ends = []

        async def ran(name, submission):
            await submission
            ends.append(name)

        async def decode(sequence_id):
            for position in range(len(BEGIN), len(BEGIN) + PARTS):
                await ran("decode", runner.submit(tokens_item(sequence_id, position, [4])))

        await asyncio.gather(
            ran("prefill", runner.submit(prefill())),
            ran("behind", runner.submit(tokens_item(1, len(BEGIN) + len(PROMPT), [5]))),
            decode(2),
            decode(3),
        )
        assert engine.calls == [("step", 1, 2, 3)] * PARTS + [("step", 1)]
        assert ends[-1] == "behind"
        assert ends.index("prefill") >= 2 * (PARTS - 1)

    async def test_draining_runs_what_is_left_of_it(self, engine, runner):
        stepping = await part_in_flight(engine, runner, part=2)
        stopping = asyncio.create_task(runner.stop())
        await asyncio.sleep(0)
        engine.gate.set()
        await stopping
        assert (await stepping).tokens.shape == (1,)


class TestFailure:
    async def test_a_refused_part_undoes_those_before_it(self, engine, runner, spec):
        bad = [*PROMPT[:150], 1_000_000, *PROMPT[151:]]
        behind = tokens_item(1, len(BEGIN) + len(PROMPT), [5])
        outcomes = await asyncio.gather(
            runner.submit(tokens_item(1, len(BEGIN), bad)),
            runner.submit(behind),
            return_exceptions=True,
        )
        assert all(isinstance(outcome, StepInvalid) for outcome in outcomes)
        assert "token id" in str(outcomes[0])
        assert f"has {len(BEGIN)} rows" in str(outcomes[1])
        assert engine.calls == [("step", 1)] * 3 + [("truncate", 1), ("step", 1)]
        await same_as_before(runner, spec)

    async def test_a_refused_first_part_undoes_nothing(self, engine, runner, spec):
        with pytest.raises(StepInvalid, match="3 rows"):
            await runner.submit(tokens_item(1, 99, PROMPT))
        assert engine.calls == [("step", 1)]
        await same_as_before(runner, spec)

    async def test_a_batch_that_fails_as_a_whole_undoes_all_its_steps(self, engine, runner, spec):
        stepping = await part_in_flight(engine, runner, part=1)
        decoding = asyncio.create_task(runner.submit(tokens_item(2, len(BEGIN), [4])))
        await asyncio.sleep(0)
        await next_in_flight(engine)
        assert engine.calls[-1] == ("step", 1, 2)
        engine.fault_after = MemoryError()
        engine.gate.set()
        for failing in (stepping, decoding):
            with pytest.raises(EngineError, match="MemoryError"):
                await failing
        expected = Route([load(spec)], capacity=512)
        expected.step(0, BEGIN)
        (token,) = expected.step(len(BEGIN), [4])
        assert (await runner.submit(tokens_item(2, len(BEGIN), [4]))).tokens == token
        await same_as_before(runner, spec)

    async def test_arrays_that_do_not_fit_are_refused_before_they_are_cut(self, engine, runner):
        item = prefill()
        object.__setattr__(item, "count", len(PROMPT) - 1)
        with pytest.raises(StepInvalid, match="token ids"):
            await runner.submit(item)
        assert engine.calls == []

    async def test_death_between_parts(self, engine, runner):
        stepping = await part_in_flight(engine, runner, part=2)
        engine.die()
        engine.gate.set()
        with pytest.raises(EngineDied):
            await stepping
        while engine.died.is_set():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        await runner.open(1, capacity_tokens=512, sampling=GREEDY)
        assert await runner.submit(tokens_item(1, 0, PROMPT))


class TestCancel:
    @pytest.mark.parametrize("part", range(1, PARTS))
    async def test_truncated_between_parts_the_sequence_is_as_before(
        self, engine, runner, spec, part
    ):
        stepping = await part_in_flight(engine, runner, part=part)
        truncating = asyncio.create_task(runner.truncate(1, len(BEGIN) + 1))
        await asyncio.sleep(0)
        engine.gate.set()
        with pytest.raises(StepCancelled):
            await stepping
        # For its caller, none of the step's rows were ever there.
        with pytest.raises(StepInvalid):
            await truncating
        assert engine.calls == [("step", 1)] * part + [("truncate", 1)] * 2
        await same_as_before(runner, spec)

    async def test_truncated_during_the_last_part_it_has_run(self, engine, runner):
        stepping = await part_in_flight(engine, runner, part=PARTS)
        truncating = asyncio.create_task(runner.truncate(1, len(BEGIN) + 1))
        await asyncio.sleep(0)
        engine.gate.set()
        assert await stepping
        await truncating

    async def test_closed_between_parts(self, engine, runner):
        stepping = await part_in_flight(engine, runner, part=2)
        closing = asyncio.create_task(runner.close(1))
        await asyncio.sleep(0)
        engine.gate.set()
        with pytest.raises(StepCancelled):
            await stepping
        await closing
        assert engine.calls == [("step", 1)] * 2 + [("close", 1)]
        assert (await runner.statistics()).engine.sequences == 2
        assert (await runner.statistics()).queued_rows == 0

    async def test_a_part_that_fails_after_the_truncate_was_asked_for(self, engine, runner, spec):
        stepping = await part_in_flight(engine, runner, part=2)
        engine.fault_after = RuntimeError("a bug")
        truncating = asyncio.create_task(runner.truncate(1, len(BEGIN)))
        await asyncio.sleep(0)
        engine.gate.set()
        with pytest.raises(StepCancelled):
            await stepping
        await truncating
        await same_as_before(runner, spec)

    async def test_a_caller_that_gives_up_does_not_stop_it(self, engine, runner):
        stepping = await part_in_flight(engine, runner, part=2)
        stepping.cancel()
        engine.gate.set()
        assert await runner.submit(tokens_item(1, len(BEGIN) + len(PROMPT), [5]))
