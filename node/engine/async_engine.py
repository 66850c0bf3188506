"""What a runner drives: the face of an EngineWorker, and LocalEngine, which has it too.

LocalEngine is for flow tests and benchmarks with the fake engine, where a process per node would
cost more than it tells. A real engine in it would block the event loop for every step's length.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from node.engine.base import Engine, EngineInfo, EngineStatistics, StepItem, StepResult
from node.engine.errors import EngineDied
from protocol.errors import EngineError
from protocol.route import Span
from protocol.sampling import SamplingParameters

__all__ = ["AsyncEngine", "LocalEngine"]


class AsyncEngine(Protocol):
    """An engine whose calls are awaited; they are answered in the order they were made."""

    @property
    def died(self) -> asyncio.Event: ...
    @property
    def info(self) -> EngineInfo: ...
    async def open(
        self,
        sequence_id: int,
        *,
        capacity_tokens: int,
        sampling: SamplingParameters | None,
        span: Span | None = None,
        prefix: Sequence[bytes] = (),
        drawn: Sequence[int] = (),
        drawn_at: int = 0,
    ) -> int: ...
    async def step(self, batch: Sequence[StepItem]) -> list[StepResult | EngineError]: ...
    async def truncate(self, sequence_id: int, position: int) -> None: ...
    async def close(self, sequence_id: int, *, keep: Sequence[bytes] = ()) -> None: ...
    async def statistics(self) -> EngineStatistics: ...
    async def restart(self) -> None: ...
    async def stop(self) -> None: ...


class LocalEngine:
    """Calls the engine straight from the event loop. `load` is called again by restart."""

    def __init__(self, load: Callable[[], Engine], *, step_delay_s: float = 0.0) -> None:
        self.died = asyncio.Event()
        self._load = load
        self._engine = load()
        self._step_delay_s = step_delay_s
        """Slept without blocking, in place of the time a real engine would compute."""

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    async def open(
        self,
        sequence_id: int,
        *,
        capacity_tokens: int,
        sampling: SamplingParameters | None,
        span: Span | None = None,
        prefix: Sequence[bytes] = (),
        drawn: Sequence[int] = (),
        drawn_at: int = 0,
    ) -> int:
        return self._alive().open(
            sequence_id,
            capacity_tokens=capacity_tokens,
            sampling=sampling,
            span=span,
            prefix=prefix,
            drawn=drawn,
            drawn_at=drawn_at,
        )

    async def step(self, batch: Sequence[StepItem]) -> list[StepResult | EngineError]:
        await asyncio.sleep(self._step_delay_s)
        return self._alive().step(batch)

    async def truncate(self, sequence_id: int, position: int) -> None:
        self._alive().truncate(sequence_id, position)

    async def close(self, sequence_id: int, *, keep: Sequence[bytes] = ()) -> None:
        self._alive().close(sequence_id, keep=keep)

    async def statistics(self) -> EngineStatistics:
        return self._alive().statistics()

    def die(self) -> None:
        """As if the process had been killed: every call fails until restart."""
        self.died.set()

    async def restart(self) -> None:
        self._engine = self._load()
        self.died.clear()

    async def stop(self) -> None:
        """Nothing to end; later calls raise EngineDied as a stopped worker's do."""
        self.died.set()

    def _alive(self) -> Engine:
        if self.died.is_set():
            raise EngineDied("The engine is gone.")
        return self._engine
