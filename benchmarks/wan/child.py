"""A process of the bed, and how it is spoken to: by lines of JSON."""

import asyncio
import json
import sys
from typing import Any, Final

__all__ = ["Child"]

START_TIMEOUT_S: Final = 120.0
"""A hop that loads torch beside two others on two cores takes ten seconds."""

STOP_TIMEOUT_S: Final = 10.0


class Child:
    """A process of the bed: says `ready`, then answers lines of JSON with lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._turn = asyncio.Lock()

    @classmethod
    async def start(cls, module: str, argument: str) -> "Child":
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, argument,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24,
        )  # fmt: skip
        return cls(process)

    async def ready(self) -> None:
        assert self._process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await self._process.stdout.readline()
        if line.strip() != b"ready":
            raise RuntimeError(f"A process of the bed did not start: {line!r}")

    async def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        async with self._turn:
            stdin.write(json.dumps(command).encode() + b"\n")
            answer: dict[str, Any] = json.loads(await stdout.readline())
        return answer

    async def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
