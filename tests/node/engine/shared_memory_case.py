"""What an engine's process maps and leaves, seen by a parent that has run nothing else.

Usage: python -m tests.node.engine.shared_memory_case MODEL_DIRECTORY
"""

import asyncio
import gc
import os
import signal
import sys
from pathlib import Path

from node.engine.worker import EngineWorker
from tests.node.engine.engine_cases import ends_of

AREA = "memfd:piecework-engine (deleted)"
SOON_S = 10.0


def mapped_files(pid: int) -> set[str]:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.partition("/")[2] for line in lines}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def die_and_leave_nothing(directory: Path) -> None:
    before = descriptors()
    worker = await EngineWorker.start(ends_of(directory), backend="fake")
    for pid in (worker.pid, os.getpid()):
        # Without a name in /dev/shm there is nothing that could be left there.
        assert [name for name in mapped_files(pid) if "piecework-engine" in name] == [AREA]
        assert not any(name.startswith("dev/shm") for name in mapped_files(pid))
    os.kill(worker.pid, signal.SIGKILL)
    await asyncio.wait_for(worker.died.wait(), SOON_S)
    await worker.stop()
    del worker
    gc.collect()
    assert AREA not in mapped_files(os.getpid())
    assert descriptors() <= before


if __name__ == "__main__":
    asyncio.run(die_and_leave_nothing(Path(sys.argv[1])))
