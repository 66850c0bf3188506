"""Running the scheduler's batches on an engine, and telling those who wait of each step's end."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from node.engine.async_engine import AsyncEngine
from node.engine.base import StepItem, StepResult
from node.engine.errors import EngineDied
from node.engine.parts import cut
from node.engine.rate import Rate, Recent
from node.engine.scheduler import Part, Scheduler
from node.engine.waiting import Waiters, as_engine_error, copy_error
from protocol.errors import EngineError

__all__ = ["Batches"]

RATE_WINDOW_S = 10.0
"""Time constant of the reported rows per second."""

logger = logging.getLogger(__name__)


class Batches:
    """One batch after another, in its runner's task. Keeps the figures of those that ran."""

    def __init__(
        self,
        engine: AsyncEngine,
        scheduler: Scheduler,
        waiters: Waiters,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._waiters = waiters
        self._clock = clock
        self.rate = Rate(RATE_WINDOW_S, clock())
        """Of rows."""
        self.waits_s = Recent()
        """From a step's submission to its first batch."""
        self.rows = Recent()
        """Of each batch."""

    async def run(self, batch: Sequence[Part]) -> None:
        """Run it and tell its steps' callers; raises EngineDied, and nothing else of the engine's.

        A step is told of when its last part has run, or one part was refused; then none of its
        rows stays.
        """
        started = self._clock()
        self.waits_s.extend(
            started - part.scheduled.queued_at for part in batch if not part.first_row
        )
        try:
            results = await self._engine.step(
                [cut(part.scheduled.item, part.first_row, part.rows) for part in batch]
            )
        except EngineDied as death:
            self._fail_parts(batch, death)
            raise
        except Exception as error:  # the task must outlive any one batch
            await self._roll_back(part.scheduled.item for part in batch)
            self._fail_parts(batch, as_engine_error(error))
            return
        now = self._clock()
        self._scheduler.observe(batch, now - started)
        rows = sum(part.rows for part in batch)
        self.rate.add(rows, now)
        self.rows.add(rows)
        await self._settle(batch, results)
        if self._scheduler.queued_items:
            # Those who were just answered may have their next step ready for this next batch.
            await asyncio.sleep(0)

    async def _settle(
        self, batch: Sequence[Part], results: Sequence[StepResult | EngineError]
    ) -> None:
        undone = []
        for part, result in zip(batch, results, strict=True):
            ticket = part.scheduled.ticket
            if isinstance(result, EngineError):
                self._fail_parts([part], result)
                if part.first_row:
                    undone.append(part.scheduled.item)
            elif part.is_last:
                self._waiters.settle(ticket, result)
            else:
                self._waiters.keep_part(ticket, result)
        if undone:
            await self._roll_back(undone)

    def _fail_parts(self, parts: Iterable[Part], error: EngineError) -> None:
        """Fail the steps these are parts of; what is queued of them will not run."""
        for part in parts:
            self._scheduler.abandon(part.scheduled)
            self._waiters.settle(part.scheduled.ticket, copy_error(error))

    async def _roll_back(self, items: Iterable[StepItem]) -> None:
        """Forget the rows of steps that failed after some had run; before anything else runs."""
        outcomes = await asyncio.gather(
            *(self._engine.truncate(item.sequence_id, item.position) for item in items),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, EngineDied):
                raise outcome
            if outcome is not None:  # a sequence that is gone, or has none of the step's rows
                logger.debug("Nothing to roll back: %s", outcome)
