"""Tasks of one owner, whose ends come one at a time."""

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["Tasks"]


class Tasks:
    """Runs tasks until they end or `cancel`; the owner takes each end and says what it means."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        # bounded by the tasks that were spawned: each ends once
        self._ended: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._note_end)
        return task

    @property
    def is_running(self) -> bool:
        return bool(self._running)

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and every end has been taken."""
        return not self._running and self._ended.empty()

    async def next_ended(self) -> "asyncio.Task[Any]":
        """The next task that has ended, however it did."""
        return await self._ended.get()

    def cancel(self) -> None:
        """Cancel every one at once: none runs on but to end."""
        for task in self._running:
            task.cancel()

    async def join(self) -> None:
        """Wait for the end of all; after `cancel`."""
        await asyncio.gather(*self._running, return_exceptions=True)

    def _note_end(self, task: "asyncio.Task[Any]") -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # its owner may be gone; asyncio would complain of nobody looking
        self._ended.put_nowait(task)
