"""An engine whose rows are real and whose computing is a wait: it measures the network, not us.

Before it answers, it waits as long as a machine would compute that reads its weights at a given
rate: the curve of its shape.
"""

import asyncio
from collections.abc import Sequence
from time import monotonic

from benchmarks.wan.scripted_shard import ScriptedShard
from benchmarks.wan.shapes import Curve
from benchmarks.wan.timer import Timer
from node.engine.base import EngineInfo, EngineStatistics, StepItem, StepResult
from protocol.errors import EngineError
from protocol.route import Span
from protocol.sampling import SamplingParameters

__all__ = ["RooflineEngine"]


class RooflineEngine:
    """An AsyncEngine over a scripted shard: every batch takes as long as the curve says.

    One batch runs at a time, as in a worker's process; the event loop is free meanwhile.
    """

    def __init__(self, shard: ScriptedShard, curve: Curve) -> None:
        self.died = asyncio.Event()
        self.late_s: list[float] = []
        """By how much each batch took longer than the curve says."""
        self._shard = shard
        self._curve = curve
        self._timer = Timer()
        self._busy = asyncio.Lock()

    @property
    def info(self) -> EngineInfo:
        return self._shard.info

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
        return self._shard.open(
            sequence_id, capacity_tokens=capacity_tokens, sampling=sampling, span=span,
            prefix=prefix, drawn=drawn, drawn_at=drawn_at,
        )  # fmt: skip

    async def step(self, batch: Sequence[StepItem]) -> list[StepResult | EngineError]:
        async with self._busy:
            due = monotonic() + self._curve.seconds(sum(item.count for item in batch))
            results = self._shard.step(batch)
            await self._timer.until(due)
            self.late_s.append(monotonic() - due)
        return results

    async def truncate(self, sequence_id: int, position: int) -> None:
        self._shard.truncate(sequence_id, position)

    async def close(self, sequence_id: int, *, keep: Sequence[bytes] = ()) -> None:
        self._shard.close(sequence_id, keep=keep)

    async def statistics(self) -> EngineStatistics:
        return self._shard.statistics()

    async def restart(self) -> None:
        """It never dies."""

    async def stop(self) -> None:
        self.died.set()
        self._timer.close()
