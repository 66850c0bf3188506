"""An engine's process that is killed, stopped, or short of memory: the faults are real."""

import asyncio
import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from node.engine.base import StepResult
from node.engine.errors import EngineDied, OutOfMemory, StepInvalid
from node.engine.fake import load
from node.engine.memory import as_out_of_memory, offer_to_be_killed_first
from node.engine.restarts import RestartLimits
from node.engine.runner import EngineRunner
from node.engine.worker import EngineWorker
from node.serve.codes import code_of
from protocol.errors import EngineError, ErrorCode
from tests.node.engine.engine_cases import (
    FAKE_LAYERS,
    GREEDY,
    Route,
    ends_of,
    spec_of,
    tokens_item,
    write_fake_model,
)

SOON_S = 10.0
ANY_NUMBER = RestartLimits(count_max=100, delay_s=0.0)
PROMPT = [3, 1, 4, 1, 5]
reads_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def directory(tmp_path):
    return write_fake_model(tmp_path / "model")


async def generate(runner, sequence_id, count, *, prompt=PROMPT):
    generated, rows, position = [], prompt, 0
    while len(generated) < count:
        result = await runner.submit(tokens_item(sequence_id, position, rows))
        position += len(rows)
        rows = [int(result.tokens[0])]
        generated += rows
    return generated


class Restarts:
    """An `on_restart` that can be waited for, once for each time it was called."""

    def __init__(self):
        self._queue = asyncio.Queue()

    async def __call__(self):
        self._queue.put_nowait(None)

    async def wait(self):
        await asyncio.wait_for(self._queue.get(), SOON_S)


class TestKilled:
    async def test_at_any_moment_every_call_fails_by_name_and_the_next_life_is_whole(
        self, directory
    ):
        spec = spec_of(directory, 0, FAKE_LAYERS)
        expected = Route([load(spec)]).generate(PROMPT, 3)
        worker = await EngineWorker.start(spec, backend="fake")
        restarts = Restarts()
        runner = EngineRunner(worker, on_restart=restarts, restart_limits=ANY_NUMBER)

        async def session(sequence_id):
            """Opens, prefills, decodes, truncates and closes, for as long as that works."""
            while True:
                await runner.open(sequence_id, capacity_tokens=600, sampling=GREEDY)
                assert await generate(runner, sequence_id, 3) == expected
                await runner.submit(tokens_item(sequence_id, len(PROMPT) + 2, PROMPT * 80))
                await runner.truncate(sequence_id, 4)
                await runner.close(sequence_id)

        moments = random.Random(0)
        for _ in range(6):
            sessions = [asyncio.create_task(session(i)) for i in range(24)]
            await asyncio.sleep(0.08 * moments.random())
            os.kill(worker.pid, signal.SIGKILL)
            await restarts.wait()
            done, waiting = await asyncio.wait(sessions, timeout=SOON_S)
            assert not waiting
            for failed in done:
                error = failed.exception()
                # Who asks for a sequence of before in the new life is told that it is not open.
                assert isinstance(error, EngineDied) or "not open" in str(error), error
            assert (await runner.statistics()).queued_items == 0
            # What a session opened right before it was told is there, as its own fault: close it.
            await asyncio.gather(*(runner.close(i) for i in range(24)))
            assert (await runner.statistics()).engine.sequences == 0
        assert (await runner.statistics()).restarts == 6
        await runner.stop()

    async def test_who_sent_the_signal_decides_what_the_message_says(self, directory):
        worker = await EngineWorker.start(ends_of(directory), backend="fake", reply_timeout_s=0.2)
        os.kill(worker.pid, signal.SIGKILL)
        await asyncio.wait_for(worker.died.wait(), SOON_S)
        with pytest.raises(EngineDied, match="perhaps for want of memory") as caught:
            await worker.statistics()
        assert "fewer layers or fewer KV tokens" in caught.value.hint
        assert code_of(caught.value) is ErrorCode.ENGINE_FAILED
        await worker.restart()
        for number in (signal.SIGSTOP, signal.SIGSEGV):
            os.kill(worker.pid, number)
            with pytest.raises(EngineDied) as caught:
                await worker.statistics()
            assert "memory" not in str(caught.value)
            await worker.restart()
        await worker.stop()

    async def test_a_hanging_process_is_replaced(self, directory):
        spec = spec_of(directory, 0, FAKE_LAYERS)
        expected = Route([load(spec)]).generate(PROMPT, 3)
        worker = await EngineWorker.start(spec, backend="fake", reply_timeout_s=0.3)
        restarts = Restarts()
        runner = EngineRunner(worker, on_restart=restarts, restart_limits=ANY_NUMBER)
        await runner.open(1, capacity_tokens=600, sampling=GREEDY)
        hanging_pid = worker.pid
        os.kill(hanging_pid, signal.SIGSTOP)
        with pytest.raises(EngineDied, match=r"no reply to STEP within 0\.3 s"):
            await generate(runner, 1, 3)
        await restarts.wait()
        assert worker.pid != hanging_pid
        await runner.open(1, capacity_tokens=600, sampling=GREEDY)
        assert await generate(runner, 1, 3) == expected
        await runner.stop()


@reads_proc
class TestMemory:
    async def test_a_step_without_memory_fails_its_batch_and_the_engine_goes_on(self, tmp_path):
        import resource

        width = 16_384  # 512 rows of it, as the fake computes them, are 64 MiB an array
        directory = write_fake_model(tmp_path / "wide", hidden_size=width)
        spec = spec_of(directory, 0, 2)
        worker = await EngineWorker.start(spec, backend="fake")
        runner = EngineRunner(worker, restart_limits=ANY_NUMBER)
        prompt = list(range(512))
        for sequence_id in (1, 2):
            await runner.open(sequence_id, capacity_tokens=600, sampling=None)
        size = int(Path(f"/proc/{worker.pid}/statm").read_text().split()[0])
        limit = size * resource.getpagesize() + (32 << 20)
        resource.prlimit(worker.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        pid = worker.pid
        for _ in range(3):
            with pytest.raises(OutOfMemory, match="ran out of memory") as caught:
                await runner.submit(hidden_item(1, 0, prompt))
            assert code_of(caught.value) is ErrorCode.NO_CAPACITY
        await runner.submit(hidden_item(2, 0, prompt[:4]))
        with pytest.raises(OutOfMemory):
            await runner.open(3, capacity_tokens=4096, sampling=None)
        resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        # The sequence is as it was, in the same process.
        assert isinstance(await runner.submit(hidden_item(1, 0, prompt)), StepResult)
        assert worker.pid == pid
        await runner.stop()

    async def test_the_kernel_would_kill_the_engine_before_the_node(self, directory):
        worker = await EngineWorker.start(ends_of(directory), backend="fake")
        scores = [
            int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (os.getpid(), worker.pid)
        ]
        await worker.stop()
        assert scores[1] == min(scores[0] + 500, 1000)

    def test_where_that_cannot_be_said_nothing_fails(self, tmp_path):
        offer_to_be_killed_first(tmp_path / "none")
        path = tmp_path / "score"
        for before, after in (("-200\n", "300"), ("900\n", "1000"), ("odd", "odd")):
            path.write_text(before)
            offer_to_be_killed_first(path)
            assert path.read_text() == after


def hidden_item(sequence_id, position, tokens):
    return tokens_item(sequence_id, position, tokens, output="hidden", wanted=0)


class TestNames:
    def test_memory_that_ran_out_is_known_by_its_many_names(self):
        import torch

        with pytest.raises(RuntimeError) as of_torch:
            torch.empty(1 << 60, dtype=torch.uint8)
        with pytest.raises(MemoryError) as of_numpy:
            np.empty(1 << 60, np.uint8)
        for error in (of_torch.value, of_numpy.value, torch.OutOfMemoryError("CUDA")):
            assert isinstance(as_out_of_memory(error), OutOfMemory)
        for error in (RuntimeError("shape"), StepInvalid("no memory"), ValueError()):
            assert as_out_of_memory(error) is None

    def test_a_failure_of_the_engines_is_not_laid_at_the_heads_door(self):
        assert code_of(EngineError("The engine failed.")) is ErrorCode.ENGINE_FAILED
        assert code_of(StepInvalid("Position 3.")) is ErrorCode.MALFORMED
