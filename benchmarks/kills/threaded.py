"""An engine on a thread of its own: the event loop goes on answering while a step runs.

A node gives its engine a process. Here providers are forked and killed by the hundred, and a thread
does: torch lets go of the interpreter for as long as it computes.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from node.engine.async_engine import LocalEngine
from node.engine.base import Engine, EngineStatistics, StepResult
from protocol.errors import EngineError

__all__ = ["ThreadedEngine"]


class ThreadedEngine(LocalEngine):
    """Every call runs on the one thread, so that they are answered in the order they were made."""

    def __init__(self, load: Callable[[], Engine]) -> None:
        super().__init__(load)
        self._thread = ThreadPoolExecutor(1, "engine")

    async def open(self, sequence_id: int, **how: Any) -> int:
        return await self._on_thread(lambda: self._alive().open(sequence_id, **how))

    async def step(self, batch: Any) -> list[StepResult | EngineError]:
        return await self._on_thread(lambda: self._alive().step(batch))

    async def truncate(self, sequence_id: int, position: int) -> None:
        await self._on_thread(lambda: self._alive().truncate(sequence_id, position))

    async def close(self, sequence_id: int, **how: Any) -> None:
        await self._on_thread(lambda: self._alive().close(sequence_id, **how))

    async def statistics(self) -> EngineStatistics:
        return await self._on_thread(lambda: self._alive().statistics())

    async def _on_thread(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
