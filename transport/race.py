"""Two ways to one peer, tried side by side: the first that works is kept, the other called off."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from transport.errors import Attempt, DialFailed

__all__ = ["first_of"]

T = TypeVar("T")

Way = tuple[float, Callable[[], Awaitable[T]]]
"""(seconds after which to begin, what to do)."""


async def first_of(peer: str, ways: Sequence[Way[T]], discard: Callable[[T], None]) -> T:
    """The first result; `discard` gets what another way gave in the same turn.

    A way begins before its time when all before it have failed. Raises DialFailed with every
    way's attempts.
    """
    failed = asyncio.Event()
    tasks = [asyncio.create_task(_begin(delay_s, way, failed)) for delay_s, way in ways]
    attempts: list[Attempt] = []
    winner: asyncio.Task[T] | None = None
    try:
        pending = set(tasks)
        while pending and winner is None:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    winner = task
                elif isinstance(error, DialFailed):
                    attempts += error.attempts
                    failed.set()
                else:
                    raise error
    finally:
        await _call_off(tasks, winner, discard)
    if winner is None:
        raise DialFailed(peer, tuple(attempts))
    return winner.result()


async def _begin(delay_s: float, way: Callable[[], Awaitable[T]], failed: asyncio.Event) -> T:
    if delay_s:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(failed.wait(), delay_s)
    return await way()


async def _call_off(
    tasks: list[asyncio.Task[T]], winner: asyncio.Task[T] | None, discard: Callable[[T], None]
) -> None:
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for task, result in zip(tasks, results, strict=True):
        if task is not winner and not isinstance(result, BaseException):
            discard(result)
