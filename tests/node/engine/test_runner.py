import asyncio
import os
import signal

import pytest

from node.engine.async_engine import LocalEngine
from node.engine.base import StepResult
from node.engine.errors import EngineDied, QueueFull, StepCancelled, StepInvalid
from node.engine.fake import load
from node.engine.restarts import RestartBudget, RestartLimits
from node.engine.runner import EngineRunner
from node.engine.scheduler import Scheduler, SchedulerLimits
from node.engine.worker import EngineWorker
from protocol.errors import EngineError
from tests.node.engine.engine_cases import (
    FAKE_LAYERS,
    GREEDY,
    Route,
    spec_of,
    tokens_item,
    write_fake_model,
)

PROMPT = [3, 1, 4, 1, 5]
QUICK = RestartLimits(count_max=3, delay_s=0.001)


@pytest.fixture
def spec(tmp_path):
    return spec_of(write_fake_model(tmp_path), 0, FAKE_LAYERS)


class ObservedEngine(LocalEngine):
    """A LocalEngine that notes the order of calls and can hold a step back."""

    def __init__(self, make):
        super().__init__(make)
        self.calls = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault = None
        self.fault_after = None
        self.restart_faults = 0

    async def step(self, batch):
        self.calls.append(("step", *(item.sequence_id for item in batch)))
        await self.gate.wait()
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        results = await super().step(batch)
        if self.fault_after is not None:
            fault, self.fault_after = self.fault_after, None
            raise fault
        return results

    async def truncate(self, sequence_id, position):
        self.calls.append(("truncate", sequence_id))
        await super().truncate(sequence_id, position)

    async def close(self, sequence_id, *, keep=()):
        self.calls.append(("close", sequence_id))
        await super().close(sequence_id, keep=keep)

    async def restart(self):
        self.calls.append(("restart",))
        if self.restart_faults:
            self.restart_faults -= 1
            raise EngineDied("It did not start.")
        await super().restart()


@pytest.fixture
async def engine(spec):
    return ObservedEngine(lambda: load(spec))


@pytest.fixture
async def runner(engine):
    runner = EngineRunner(engine, restart_limits=QUICK)
    for sequence_id in range(1, 9):
        await runner.open(sequence_id, capacity_tokens=64, sampling=GREEDY)
    yield runner
    await runner.stop()


async def generate(runner, sequence_id, count):
    generated, rows, position = [], PROMPT, 0
    while len(generated) < count:
        result = await runner.submit(tokens_item(sequence_id, position, rows))
        position += len(rows)
        rows = [int(result.tokens[0])]
        generated += rows
    return generated


async def in_flight(engine):
    """Hold the next step back; returns once it has begun."""
    steps = len(engine.calls)
    while len(engine.calls) == steps:
        await asyncio.sleep(0)


class TestSubmit:
    async def test_many_sequences_are_batched_and_do_not_mix(self, spec, engine, runner):
        expected = Route([load(spec)]).generate(PROMPT, 12)
        generated = await asyncio.gather(*(generate(runner, i, 12) for i in range(1, 9)))
        assert generated == [expected] * 8
        assert engine.calls == [("step", *range(1, 9))] * 12
        statistics = await runner.statistics()
        assert statistics.engine.rows == 8 * (len(PROMPT) + 11)
        assert statistics.rows_per_s > 0
        assert (statistics.queued_items, statistics.queued_rows, statistics.restarts) == (0, 0, 0)
        assert 0 <= statistics.queue_wait_p50_s <= statistics.queue_wait_p95_s < 60
        assert statistics.batch_rows_mean == statistics.engine.rows / 12

    async def test_a_refused_item_fails_alone(self, runner):
        bad, good = await asyncio.gather(
            runner.submit(tokens_item(1, 5, [1])),
            runner.submit(tokens_item(2, 0, [1])),
            return_exceptions=True,
        )
        assert isinstance(bad, StepInvalid)
        assert isinstance(good, StepResult)

    async def test_an_engine_that_fails_as_a_whole_fails_its_batch_and_goes_on(
        self, engine, runner
    ):
        for fault in (EngineError("no memory"), RuntimeError("a bug")):
            engine.fault = fault
            with pytest.raises(EngineError, match=r"no memory|a bug"):
                await runner.submit(tokens_item(1, 0, [1]))
        assert await runner.submit(tokens_item(1, 0, [1]))

    async def test_a_full_queue_refuses(self, engine):
        runner = EngineRunner(engine, Scheduler(SchedulerLimits(queue_items_max=1)))
        await runner.open(1, capacity_tokens=8, sampling=GREEDY)
        first = asyncio.create_task(runner.submit(tokens_item(1, 0, [1])))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await runner.submit(tokens_item(1, 1, [1]))
        assert await first
        await runner.stop()

    async def test_a_caller_that_gives_up_harms_nobody(self, engine, runner):
        engine.gate.clear()
        lost = asyncio.create_task(runner.submit(tokens_item(1, 0, [1])))
        await in_flight(engine)
        lost.cancel()
        engine.gate.set()
        assert await runner.submit(tokens_item(1, 1, [1]))


class TestOrder:
    @pytest.mark.parametrize("how", ["truncate", "close"])
    async def test_it_waits_for_the_step_in_flight_and_voids_what_is_queued(
        self, engine, runner, how
    ):
        engine.gate.clear()
        first = asyncio.create_task(runner.submit(tokens_item(1, 0, [1, 2])))
        await in_flight(engine)
        queued = asyncio.create_task(runner.submit(tokens_item(1, 2, [3])))
        other = asyncio.create_task(runner.submit(tokens_item(2, 0, [3])))
        await asyncio.sleep(0)
        call = runner.truncate(1, 1) if how == "truncate" else runner.close(1)
        control = asyncio.create_task(call)
        await asyncio.sleep(0)
        later = asyncio.create_task(runner.submit(tokens_item(1, 1, [9])))
        await asyncio.sleep(0)
        assert engine.calls == [("step", 1)]
        engine.gate.set()
        assert await first
        await control
        with pytest.raises(StepCancelled):
            await queued
        assert await other
        if how == "truncate":
            assert await later
        else:
            with pytest.raises(StepInvalid, match="not open"):
                await later
        assert engine.calls == [("step", 1), (how, 1), ("step", 2, 1)]

    async def test_an_engines_refusal_of_a_truncate_reaches_the_caller(self, runner):
        with pytest.raises(StepInvalid):
            await runner.truncate(1, 5)


class TestStop:
    async def test_draining_runs_what_is_queued(self, engine, runner):
        engine.gate.clear()
        steps = [
            asyncio.create_task(runner.submit(tokens_item(1, position, [1])))
            for position in range(3)
        ]
        await in_flight(engine)
        stop = asyncio.create_task(runner.stop())
        await asyncio.sleep(0)
        with pytest.raises(StepCancelled, match="stopped"):
            await runner.submit(tokens_item(2, 0, [1]))
        engine.gate.set()
        await stop
        assert all([await step for step in steps])

    async def test_without_draining_everything_is_cancelled(self, engine, runner):
        engine.gate.clear()
        steps = [
            asyncio.create_task(runner.submit(tokens_item(1, position, [1])))
            for position in range(3)
        ]
        await in_flight(engine)
        await runner.stop(drain_timeout_s=0)
        for outcome in await asyncio.gather(*steps, return_exceptions=True):
            assert isinstance(outcome, StepCancelled)
        await runner.close(1)


class TestDeath:
    async def test_a_killed_worker_is_restarted_and_the_hook_called(self, spec):
        worker = await EngineWorker.start(spec, backend="fake")
        restarted = asyncio.Event()

        async def on_restart():
            restarted.set()

        runner = EngineRunner(worker, on_restart=on_restart, restart_limits=QUICK)
        await runner.open(1, capacity_tokens=64, sampling=GREEDY)
        expected = await generate(runner, 1, 4)
        # Once in the middle of work, once idle.
        stream = asyncio.create_task(generate(runner, 1, 1000))
        for pending in (stream, None):
            os.kill(worker.pid, signal.SIGKILL)
            if pending is not None:
                with pytest.raises(EngineError):
                    await pending
            await asyncio.wait_for(restarted.wait(), 10)
            restarted.clear()
            with pytest.raises(StepInvalid, match="not open"):
                await runner.submit(tokens_item(1, 4, [1]))
            await runner.open(1, capacity_tokens=64, sampling=GREEDY)
            assert await generate(runner, 1, 4) == expected
        assert (await runner.statistics()).restarts == 2
        await runner.stop()

    async def test_everything_waiting_fails(self, engine, runner):
        engine.gate.clear()
        calls = [
            asyncio.create_task(runner.submit(tokens_item(1, 0, [1]))),
            asyncio.create_task(runner.submit(tokens_item(1, 1, [1]))),
        ]
        await in_flight(engine)
        calls.append(asyncio.create_task(runner.truncate(2, 0)))
        await asyncio.sleep(0)
        engine.die()
        engine.gate.set()
        await runner.close(3)
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, EngineDied)

    async def test_a_bug_in_the_queue_fails_the_callers_and_does_not_hang(self, engine):
        class BrokenScheduler(Scheduler):
            def next_batch(self, now):
                raise ZeroDivisionError

        runner = EngineRunner(engine, BrokenScheduler())
        await runner.open(1, capacity_tokens=8, sampling=GREEDY)
        for _ in range(2):
            with pytest.raises(EngineError, match="ZeroDivisionError"):
                await runner.submit(tokens_item(1, 0, [1]))
        await runner.stop()

    async def test_a_restart_that_fails_is_tried_again(self, engine, runner):
        engine.restart_faults = 2
        engine.die()
        with pytest.raises(EngineDied):
            await runner.submit(tokens_item(1, 0, [1]))
        while engine.died.is_set():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        await runner.open(1, capacity_tokens=8, sampling=GREEDY)
        assert await runner.submit(tokens_item(1, 0, [1]))

    async def test_too_many_deaths_and_it_is_given_up(self, engine, runner):
        engine.restart_faults = 99
        engine.die()
        while engine.calls != [("restart",)] * QUICK.count_max:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        with pytest.raises(EngineDied, match="did not start"):
            await runner.open(20, capacity_tokens=8, sampling=GREEDY)
        await runner.close(1)
        assert engine.calls == [("restart",)] * QUICK.count_max

    async def test_a_failing_hook_does_not_stop_the_engine(self, engine):
        async def on_restart():
            raise RuntimeError("the hook")

        runner = EngineRunner(engine, on_restart=on_restart, restart_limits=QUICK)
        await runner.open(1, capacity_tokens=8, sampling=GREEDY)
        engine.die()
        while engine.died.is_set():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        await runner.open(1, capacity_tokens=8, sampling=GREEDY)
        assert await runner.submit(tokens_item(1, 0, [1]))
        await runner.stop()


class TestRestartBudget:
    def test_delays_double_until_none_is_left_and_a_quiet_window_refills_it(self):
        budget = RestartBudget(RestartLimits(count_max=4, window_s=100, delay_s=1))
        assert [budget.take(float(now)) for now in range(5)] == [0, 1, 2, 4, None]
        assert budget.take(50.0) is None
        assert budget.take(101.5) == 2
        assert budget.take(500.0) == 0
