"""EngineRunner: the async front of one engine, shared by every session of the node.

One task turns the queue into batches: between two batches it runs the truncates and closes that
came in, so those are ordered after the step in flight and before whatever is submitted next. A long
step may run in parts over several batches; its caller sees one step, which runs or fails whole.
When the engine's process dies, everything waiting fails, and the process is started again.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from node.engine.async_engine import AsyncEngine
from node.engine.base import EngineInfo, EngineStatistics, StepItem, StepResult
from node.engine.batches import Batches
from node.engine.errors import EngineDied, StepCancelled
from node.engine.restarts import RestartBudget, RestartLimits
from node.engine.scheduler import Scheduler
from node.engine.validation import find_shape_fault
from node.engine.waiting import Waiters, as_engine_error, copy_error, run_controls
from protocol.errors import EngineError
from protocol.route import Span
from protocol.sampling import SamplingParameters

__all__ = ["EngineRunner", "RunnerStatistics"]

DRAIN_TIMEOUT_S = 10.0
"""How long stop() lets queued steps run: a full queue is about eight batches."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunnerStatistics:
    engine: EngineStatistics
    queued_items: int
    queued_rows: int
    rows_per_s: float
    """Rows (tokens through this shard), over about the last ten seconds."""
    restarts: int
    queue_wait_p50_s: float
    """From a step's submission to its first batch, of the last 256 steps."""
    queue_wait_p95_s: float
    batch_rows_mean: float
    """Of the last 256 batches."""


class EngineRunner:
    """Batches many callers' steps for one engine. Create and use within one event loop."""

    def __init__(
        self,
        engine: AsyncEngine,
        scheduler: Scheduler | None = None,
        *,
        on_restart: Callable[[], Awaitable[None]] | None = None,
        restart_limits: RestartLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._scheduler = scheduler or Scheduler()
        self.on_restart = on_restart
        """Called when the engine runs again after a death: every sequence of before is lost."""
        self._restarts = RestartBudget(restart_limits)
        self._clock = clock
        self._waiters = Waiters()
        self._wake = asyncio.Event()
        self._refusal: EngineError | None = None
        """Why no work is taken now; None while running."""
        self._stopping = asyncio.Event()
        self._restart_count = 0
        self._batches = Batches(engine, self._scheduler, self._waiters, clock)
        self._task: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None

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
        """As Engine.open. A cancelled call may have opened the sequence: close it."""
        self._admit()
        return await self._engine.open(
            sequence_id, capacity_tokens=capacity_tokens, sampling=sampling, span=span,
            prefix=prefix, drawn=drawn, drawn_at=drawn_at,
        )  # fmt: skip

    async def submit(self, item: StepItem, *, lease_key: bytes | None = None) -> StepResult:
        """Queue a step and wait for its result.

        Sequences with one `lease_key` share their turns; without one each has its own.

        Raises the item's own StepInvalid, QueueFull, StepCancelled when the sequence is closed or
        truncated first, and EngineDied. Cancelling the call does not take the item back: close
        or truncate the sequence for that.
        """
        self._admit()
        if item.count > self._scheduler.limits.short_rows_max and (
            fault := find_shape_fault(item, self.info.hidden_size)
        ):
            raise fault  # of arrays cut into parts, the engine could no longer tell
        if lease_key is None:
            lease_key = b"sequence %d" % item.sequence_id
        scheduled = self._scheduler.add(item, lease_key, self._clock())
        self._wake.set()
        return await self._waiters.add_step(scheduled.ticket)

    async def truncate(self, sequence_id: int, position: int) -> None:
        """As Engine.truncate, after the step in flight; the sequence's queued steps are void.

        So is one of which a part has run: first the sequence is what it was before it.
        """
        self._admit()
        if begun := self._cancel(sequence_id):
            self._waiters.add_control(lambda: self._engine.truncate(sequence_id, begun.position))
        await self._control(lambda: self._engine.truncate(sequence_id, position))

    async def close(self, sequence_id: int, *, keep: Sequence[bytes] = ()) -> None:
        """As Engine.close, after the step in flight; the sequence's queued steps are void.

        Never fails for an engine that is gone: the sequence went with it.
        """
        if self._refusal is not None:
            return
        self._admit()
        self._cancel(sequence_id)
        self._scheduler.forget(sequence_id)
        try:
            await self._control(lambda: self._engine.close(sequence_id, keep=keep))
        except EngineDied:
            return

    async def statistics(self) -> RunnerStatistics:
        self._admit()
        return RunnerStatistics(
            engine=await self._engine.statistics(),
            queued_items=self._scheduler.queued_items,
            queued_rows=self._scheduler.queued_rows,
            rows_per_s=self._batches.rate.per_s(self._clock()),
            restarts=self._restart_count,
            queue_wait_p50_s=self._batches.waits_s.quantile(0.5),
            queue_wait_p95_s=self._batches.waits_s.quantile(0.95),
            batch_rows_mean=self._batches.rows.mean(),
        )

    async def stop(self, *, drain_timeout_s: float = DRAIN_TIMEOUT_S) -> None:
        """Take no more work, run what is queued for at most that long, cancel the rest, end."""
        self._refusal = StepCancelled("The engine is being stopped.")
        self._stopping.set()
        if drain_timeout_s <= 0:
            self._fail_queued(self._refusal)
        self._wake.set()
        for task, timeout_s in ((self._task, drain_timeout_s), (self._watch, 0.0)):
            if task is not None:
                await asyncio.wait([task], timeout=timeout_s)
                task.cancel()
                await asyncio.wait([task])
        self._fail_all(self._refusal)
        await self._engine.stop()

    def _admit(self) -> None:
        """Refuse work that could not run; start the task with the first that can."""
        if self._refusal is not None:
            raise copy_error(self._refusal)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(self._note_end)
            self._arm_watch()

    def _note_end(self, task: "asyncio.Task[None]") -> None:
        """A task that failed leaves nobody waiting: that would be a bug of ours, but not a hang."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._refusal = as_engine_error(error)
            self._fail_all(self._refusal)

    def _cancel(self, sequence_id: int) -> StepItem | None:
        """Void what a sequence has queued; gives the step of it that had begun, if one had."""
        left = self._scheduler.discard(sequence_id)
        for part in left:
            self._waiters.settle(
                part.scheduled.ticket, StepCancelled("Its sequence was closed or truncated.")
            )
        return left[0].scheduled.item if left and left[0].first_row else None

    async def _control(self, run: Callable[[], Awaitable[None]]) -> None:
        self._wake.set()
        await self._waiters.add_control(run)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                if self._engine.died.is_set():
                    await self._engine.statistics()  # raises, and says how it died
                if controls := self._waiters.take_controls():
                    await run_controls(controls)
                if batch := self._scheduler.next_batch(self._clock()):
                    await self._batches.run(batch)
            except EngineDied as death:
                if not await self._recover(death):
                    return
                continue
            if not controls and not batch:
                if self._stopping.is_set():
                    return
                await self._wake.wait()

    async def _recover(self, death: EngineDied) -> bool:
        """Fail what waits, then start the engine again; False when it may not be tried again."""
        logger.warning("%s", death)
        if self._stopping.is_set():
            return False
        self._refusal = death
        self._fail_all(death)
        while (delay_s := self._restarts.take(self._clock())) is not None:
            await asyncio.sleep(delay_s)
            try:
                await self._engine.restart()
            except Exception as error:  # one more reason not to start, whichever it is
                logger.warning("The engine did not start again: %s", error)
                self._refusal = as_engine_error(error)
                continue
            self._restart_count += 1
            if self._stopping.is_set():
                return False
            self._refusal = None
            self._arm_watch()
            await self._tell_restart()
            return True
        logger.error("The engine is given up after too many deaths.")
        return False

    async def _tell_restart(self) -> None:
        if self.on_restart is None:
            return
        try:
            await self.on_restart()
        except Exception:  # the hook's trouble must not stop the engine
            logger.exception("The restart hook failed.")

    def _arm_watch(self) -> None:
        """Wake the task when the engine dies, idle or not."""
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._watch_for_death())

    async def _watch_for_death(self) -> None:
        await self._engine.died.wait()
        self._wake.set()

    def _fail_queued(self, error: EngineError) -> None:
        for part in self._scheduler.discard_all():
            self._waiters.settle(part.scheduled.ticket, copy_error(error))

    def _fail_all(self, error: EngineError) -> None:
        self._fail_queued(error)
        self._waiters.fail_all(error)
