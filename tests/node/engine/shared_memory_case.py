"""What an engine's process maps and leaves, seen by a parent that has run nothing else.

Usage: python -m tests.node.engine.shared_memory_case MODEL_DIRECTORY
"""

import asyncio
import gc
import os
import random
import signal
import sys
from pathlib import Path

from node.engine.errors import EngineDied
from node.engine.worker import EngineWorker
from tests.node.engine.engine_cases import GREEDY, ends_of, tokens_item

AREA = "memfd:piecework-engine (deleted)"
KILLS = 20
SOON_S = 10.0


def mapped_files(pid: int) -> set[str]:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.partition("/")[2] for line in lines}


def descriptors() -> list[str]:
    folder = Path("/proc/self/fd")
    return sorted(
        os.readlink(folder / name) for name in os.listdir(folder) if (folder / name).exists()
    )


def children() -> str:
    """Those not reaped yet among them."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


async def work(worker: EngineWorker) -> None:
    """Open, step and close until the process is gone."""
    for sequence_id in range(1_000_000):
        await worker.open(sequence_id, capacity_tokens=8, sampling=GREEDY)
        await worker.step([tokens_item(sequence_id, 0, [1, 2])])
        if sequence_id % 3:
            await worker.close(sequence_id)


async def die_and_leave_nothing(directory: Path) -> None:
    before = descriptors()
    worker = await EngineWorker.start(ends_of(directory), backend="fake")
    for pid in (worker.pid, os.getpid()):
        # Without a name in /dev/shm there is nothing that could be left there.
        assert [name for name in mapped_files(pid) if "piecework-engine" in name] == [AREA]
        assert not any(name.startswith("dev/shm") for name in mapped_files(pid))
    moments = random.Random(0)
    for _ in range(KILLS):
        working = asyncio.create_task(work(worker))
        await asyncio.sleep(0.01 * moments.random())
        os.kill(worker.pid, signal.SIGKILL)
        await asyncio.wait_for(worker.died.wait(), SOON_S)
        (outcome,) = await asyncio.gather(working, return_exceptions=True)
        assert isinstance(outcome, EngineDied), outcome
        await worker.restart()
    await worker.stop()
    del worker, working, outcome
    gc.collect()
    assert AREA not in mapped_files(os.getpid())
    after = descriptors()
    # Less, if anything: a first garbage collection may close what start-up left.
    assert len(after) <= len(before), set(after) - set(before)
    assert children() == "", children()


if __name__ == "__main__":
    asyncio.run(die_and_leave_nothing(Path(sys.argv[1])))
