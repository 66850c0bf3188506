import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import uvloop

from node.engine.backends import available_backends, choose_backend
from node.engine.base import ComputeDtype, Output, StepItem, StepResult
from node.engine.channel import BATCH_ROWS_MAX
from node.engine.errors import (
    BackendMissing,
    EngineDied,
    ModelNotFound,
    OutOfKV,
    ShardMismatch,
    StepInvalid,
)
from node.engine.fake import DELAY_FIELD, load
from node.engine.message import decode_spec, encode_spec
from node.engine.wire import encode
from node.engine.worker import EngineWorker
from protocol.tensor import WireDtype
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
reads_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc and /dev/shm")


@pytest.fixture
def directory(tmp_path):
    return write_fake_model(tmp_path / "model")


@contextlib.asynccontextmanager
async def running(spec, **options):
    worker = await EngineWorker.start(spec, backend="fake", **options)
    try:
        yield worker
    finally:
        await worker.stop()


def test_a_worker_is_told_all_of_its_shard(directory):
    spec = spec_of(
        directory, 0, 3, kv_tokens=77, threads=2, spare_bytes=5, device="cuda:1",
        compute_dtype=ComputeDtype.BF16,
    )  # fmt: skip
    assert decode_spec(encode_spec(spec)) == spec


class TestStep:
    async def test_yields_what_the_engine_yields(self, directory):
        spec = spec_of(directory, 0, FAKE_LAYERS)
        expected = Route([load(spec)]).generate([3, 1, 4], 8)
        async with running(spec) as worker:
            assert worker.info == load(spec).info
            await worker.open(7, capacity_tokens=64, sampling=GREEDY)
            tokens, generated = [3, 1, 4], []
            while len(generated) < 8:
                position = 0 if not generated else 2 + len(generated)
                (result,) = await worker.step([tokens_item(7, position, tokens)])
                tokens = result.tokens
                generated.append(int(tokens[0]))
            assert generated == expected
            statistics = await worker.statistics()
            assert (statistics.sequences, statistics.steps, statistics.rows) == (1, 8, 10)
            await worker.truncate(7, 2)
            await worker.close(7)
            assert (await worker.statistics()).sequences == 0

    async def test_prefixes_cross_over_and_what_was_found_of_them(self, directory):
        names = [bytes([n]) * 32 for n in range(2)]
        async with running(spec_of(directory, 0, FAKE_LAYERS)) as worker:
            assert await worker.open(1, capacity_tokens=200, sampling=GREEDY, prefix=names) == 0
            (expected,) = await worker.step([tokens_item(1, 0, [1] * 130)])
            await worker.close(1, keep=names)
            assert (await worker.statistics()).kv_tokens_cached == 128
            assert await worker.open(2, capacity_tokens=200, sampling=GREEDY, prefix=names) == 128
            (found,) = await worker.step([tokens_item(2, 128, [1] * 2)])
            assert found.tokens == expected.tokens
            assert (await worker.statistics()).reused_tokens == 128

    @pytest.mark.parametrize("wire", WireDtype)
    async def test_a_full_batch_of_hidden_states(self, directory, wire):
        spec = spec_of(directory, 1, 3)
        local = load(spec)
        random = np.random.default_rng(0)
        batch = []
        counts = [512, 1, 3, 200, BATCH_ROWS_MAX - 716]
        for sequence_id, count in enumerate(counts):
            values = encode(random.integers(-125, 126, (count, 16)).astype(np.float32), wire)
            batch.append(StepItem(sequence_id, 0, count, count, Output.HIDDEN, wire, hidden=values))
            local.open(sequence_id, capacity_tokens=600, sampling=None)
        async with running(spec) as worker:
            for item in batch:
                await worker.open(item.sequence_id, capacity_tokens=600, sampling=None)
            results = await worker.step(batch)
        for result, expected in zip(results, local.step(batch), strict=True):
            assert result.hidden.dtype == expected.hidden.dtype
            np.testing.assert_array_equal(result.hidden, expected.hidden)

    async def test_bad_items_are_refused_in_their_places(self, directory):
        async with running(spec_of(directory, 0, FAKE_LAYERS)) as worker:
            for sequence_id in (1, 2, 3):
                await worker.open(sequence_id, capacity_tokens=8, sampling=GREEDY)
            wrong_dtype = StepItem(
                1, 0, 1, 1, Output.HIDDEN, WireDtype.BF16, hidden=np.zeros((1, 16), np.float32)
            )
            batch = [wrong_dtype, tokens_item(2, 5, [1]), tokens_item(3, 0, [1])]
            first, second, third = await worker.step(batch)
            assert isinstance(first, StepInvalid)
            assert isinstance(second, StepInvalid)
            assert "0 rows" in str(second)
            assert isinstance(third, StepResult)
            assert all(isinstance(r, StepInvalid) for r in await worker.step([wrong_dtype]))
            assert await worker.step([]) == []
            too_many = [tokens_item(i, 0, [1] * 400) for i in range(3)]
            with pytest.raises(StepInvalid, match="rows"):
                await worker.step(too_many)

    async def test_a_full_batch_of_refusals_fits_a_message(self, directory):
        async with running(spec_of(directory, 0, FAKE_LAYERS)) as worker:
            results = await worker.step([tokens_item(i, 0, [1]) for i in range(BATCH_ROWS_MAX)])
            assert len(results) == BATCH_ROWS_MAX
            assert all("not open" in str(result) for result in results)

    async def test_results_are_the_callers_own(self, directory):
        async with running(ends_of(directory)) as worker:
            await worker.open(1, capacity_tokens=8, sampling=GREEDY)
            items = [tokens_item(1, 0, [token], output=Output.HIDDEN) for token in (5, 6)]
            (first,) = await worker.step(items[:1])
            kept = first.hidden.copy()
            await worker.step(items[1:])
            np.testing.assert_array_equal(first.hidden, kept)

    async def test_errors_keep_their_class_and_message(self, directory):
        async with running(spec_of(directory, 0, 2, kv_tokens=10)) as worker:
            with pytest.raises(OutOfKV, match="11 tokens were asked for; of 10, 10 are free"):
                await worker.open(1, capacity_tokens=11, sampling=None)
            with pytest.raises(StepInvalid, match="not open"):
                await worker.truncate(1, 0)

    async def test_many_calls_at_once(self, directory):
        async with running(ends_of(directory)) as worker:
            await asyncio.gather(
                *(worker.open(i, capacity_tokens=8, sampling=GREEDY) for i in range(200))
            )
            results = await asyncio.gather(
                *(worker.step([tokens_item(i, 0, [i % 7])]) for i in range(200))
            )
            tokens = [int(result.tokens[0]) for (result,) in results]
            assert tokens == [tokens[i % 7] for i in range(200)]
            assert len(set(tokens)) == 7
            assert (await worker.statistics()).sequences == 200

    async def test_a_cancelled_step_does_not_disturb_the_next(self, tmp_path):
        directory = write_fake_model(tmp_path / "slow", **{DELAY_FIELD: 50})
        async with running(ends_of(directory)) as worker:
            await worker.open(1, capacity_tokens=8, sampling=GREEDY)
            (expected,) = await worker.step([tokens_item(1, 0, [6])])
            cancelled = asyncio.create_task(worker.step([tokens_item(1, 0, [5, 5, 5])]))
            await asyncio.sleep(0.01)
            cancelled.cancel()
            (result,) = await worker.step([tokens_item(1, 0, [6])])
            assert result.tokens == expected.tokens
            with pytest.raises(asyncio.CancelledError):
                await cancelled

    async def test_the_loop_runs_on_during_a_step(self, tmp_path):
        directory = write_fake_model(tmp_path / "slow", **{DELAY_FIELD: 200})
        async with running(ends_of(directory)) as worker:
            await worker.open(1, capacity_tokens=8, sampling=GREEDY)
            step = asyncio.create_task(worker.step([tokens_item(1, 0, [6])]))
            ticks = 0
            while not step.done():
                await asyncio.sleep(0.005)
                ticks += 1
            assert ticks >= 10

    def test_works_under_uvloop(self, directory):
        async def main():
            async with running(ends_of(directory)) as worker:
                await worker.open(1, capacity_tokens=8, sampling=GREEDY)
                (result,) = await worker.step([tokens_item(1, 0, [6])])
                assert result.tokens.shape == (1,)
                os.kill(worker.pid, signal.SIGKILL)
                await asyncio.wait_for(worker.died.wait(), SOON_S)
                await worker.restart()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())


class TestDeath:
    async def test_a_killed_worker_fails_every_call_and_restarts(self, tmp_path):
        directory = write_fake_model(tmp_path / "slow", **{DELAY_FIELD: 5000})
        async with running(ends_of(directory)) as worker:
            await worker.open(1, capacity_tokens=8, sampling=GREEDY)
            calls = [
                asyncio.create_task(worker.step([tokens_item(1, 0, [6])])),
                asyncio.create_task(worker.step([tokens_item(1, 0, [6])])),
                asyncio.create_task(worker.close(1)),
                asyncio.create_task(worker.statistics()),
            ]
            await asyncio.sleep(0.05)
            killed_pid = worker.pid
            os.kill(killed_pid, signal.SIGKILL)
            await asyncio.wait_for(worker.died.wait(), SOON_S)
            for outcome in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(outcome, EngineDied)
                assert "SIGKILL (signal 9)" in str(outcome)
            with pytest.raises(EngineDied):
                await worker.step([tokens_item(1, 0, [6])])
            await worker.restart()
            assert not worker.died.is_set()
            assert worker.pid != killed_pid
            assert (await worker.statistics()).sequences == 0

    async def test_a_stuck_worker_is_killed(self, directory):
        async with running(ends_of(directory), reply_timeout_s=0.2) as worker:
            os.kill(worker.pid, signal.SIGSTOP)
            with pytest.raises(EngineDied, match="no reply to STATISTICS"):
                await worker.statistics()
            await asyncio.wait_for(worker.died.wait(), SOON_S)

    async def test_stop_is_no_death(self, directory):
        async with running(ends_of(directory)) as worker:
            await worker.stop()
            assert not worker.died.is_set()
            with pytest.raises(EngineDied, match="status 0"):
                await worker.statistics()

    @reads_proc
    def test_nothing_is_left_in_shared_memory(self, directory):
        # In a process of its own: a test process maps what other tests and OpenMP left there.
        code = Path(__file__).with_name("shared_memory_case.py")
        case = subprocess.run(
            [sys.executable, "-m", f"tests.node.engine.{code.stem}", str(directory)],
            capture_output=True,
            text=True,
            cwd=Path.cwd(),
            timeout=SOON_S * 6,
        )
        assert case.returncode == 0, case.stderr

    @reads_proc
    def test_the_child_leaves_when_the_parent_is_killed(self, directory):
        code = (
            "import asyncio, pathlib\n"
            "from tests.node.engine.engine_cases import ends_of\n"
            "from node.engine.worker import EngineWorker\n"
            "async def main():\n"
            f"    spec = ends_of(pathlib.Path({str(directory)!r}))\n"
            "    worker = await EngineWorker.start(spec, backend='fake')\n"
            "    print(worker.pid, flush=True)\n"
            "    await asyncio.sleep(60)\n"
            "asyncio.run(main())\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path.cwd()
        ) as parent:
            pid = int(parent.stdout.readline())
            assert Path(f"/proc/{pid}").exists()
            parent.kill()
        deadline = time.monotonic() + SOON_S
        while is_running(pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def is_running(pid):
    """Not gone and not a zombie either: an orphan's reaper may take its time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


class TestStart:
    async def test_a_load_error_keeps_its_class(self, tmp_path, directory):
        with pytest.raises(ModelNotFound, match=r"config\.json"):
            await EngineWorker.start(ends_of(tmp_path / "none"), backend="fake")
        with pytest.raises(ShardMismatch):
            await EngineWorker.start(spec_of(directory, 3, 99), backend="fake")
        with pytest.raises(BackendMissing):
            await EngineWorker.start(ends_of(directory), backend="abacus")

    async def test_a_start_that_takes_too_long(self, directory):
        with pytest.raises(EngineDied, match="no reply to LOAD"):
            await EngineWorker.start(ends_of(directory), backend="fake", start_timeout_s=0.01)

    @pytest.mark.parametrize("delay_s", [0, 0.02])
    async def test_a_cancelled_start_leaves_no_process(self, directory, delay_s):
        start = asyncio.create_task(EngineWorker.start(ends_of(directory), backend="fake"))
        await asyncio.sleep(delay_s)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start

    async def test_a_process_that_cannot_be_started(self, directory, monkeypatch):
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(EngineDied, match="did not start"):
            await EngineWorker.start(ends_of(directory), backend="fake")

    def test_the_parent_imports_no_engine(self):
        code = (
            "import sys\n"
            "import node.engine.worker, node.engine.runner, node.engine.fake\n"
            "from node.engine.backends import available_backends\n"
            "available_backends()\n"
            "assert not {'torch', 'mlx', 'mlx_lm', 'transformers'} & set(sys.modules)\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


class TestBackends:
    def test_the_fake_is_always_there_but_never_chosen_by_itself(self, monkeypatch):
        assert "fake" in available_backends()
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert available_backends() == ("fake",)
        with pytest.raises(BackendMissing, match=r"pip install 'piecework\[torch\]'"):
            choose_backend("auto")
        with pytest.raises(BackendMissing, match=r"pip install 'piecework\[mlx\]'"):
            choose_backend("mlx")
        with pytest.raises(BackendMissing, match="Choose one of auto, torch"):
            choose_backend("abacus")
