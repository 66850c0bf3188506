"""Work that ends when a program is told to stop, or when it fails."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["unless_told", "until_told"]

T = TypeVar("T")


async def unless_told(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The work's result, or None when told to stop first; raises what it raises."""
    task = asyncio.create_task(work)
    await _until_first(stop, [task])
    return None if task.cancelled() else task.result()


async def until_told(stop: asyncio.Event, *works: Coroutine[Any, Any, None]) -> None:
    """Run all until told to stop; what one of them raises ends the others and is raised here."""
    tasks = [asyncio.create_task(work) for work in works]
    await _until_first(stop, tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


async def _until_first(stop: asyncio.Event, tasks: list[asyncio.Task[T]]) -> None:
    """Until the first of them ends or `stop` is set; none runs on after it."""
    waiting = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for pending in (waiting, *tasks):
            pending.cancel()
        await asyncio.gather(waiting, *tasks, return_exceptions=True)
