"""EngineRunner: the async front of one engine, shared by every session of the node.

One task turns the queue into batches: between two batches it runs the truncates and closes that
came in, so those are ordered after the step in flight and before whatever is submitted next. When
the engine's process dies, everything waiting fails, and the process is started again.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from node.engine.async_engine import AsyncEngine
from node.engine.base import EngineInfo, EngineStatistics, StepItem, StepResult
from node.engine.errors import EngineDied, StepCancelled
from node.engine.rate import Rate
from node.engine.restarts import RestartBudget, RestartLimits
from node.engine.scheduler import Scheduled, Scheduler
from protocol.errors import EngineError
from protocol.sampling import SamplingParameters

__all__ = ["EngineRunner", "RunnerStatistics"]

DRAIN_TIMEOUT_S = 10.0
"""How long stop() lets queued steps run: a full queue is about eight batches."""

RATE_WINDOW_S = 10.0
"""Time constant of the reported rows per second."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunnerStatistics:
    engine: EngineStatistics
    queued_items: int
    queued_rows: int
    rows_per_s: float
    """Rows (tokens through this shard), over about the last ten seconds."""
    restarts: int


@dataclass(frozen=True, slots=True)
class _Control:
    """A truncate or close waiting for its place between two batches."""

    run: Callable[[], Awaitable[None]]
    future: "asyncio.Future[None]"


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
        self._on_restart = on_restart
        self._restarts = RestartBudget(restart_limits)
        self._clock = clock
        self._futures: dict[int, asyncio.Future[StepResult]] = {}
        self._controls: list[_Control] = []
        self._wake = asyncio.Event()
        self._refusal: EngineError | None = None
        """Why no work is taken now; None while running."""
        self._stopping = asyncio.Event()
        self._restart_count = 0
        self._rate = Rate(RATE_WINDOW_S, clock())
        self._task: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    async def open(
        self, sequence_id: int, *, capacity_tokens: int, sampling: SamplingParameters | None
    ) -> None:
        """As Engine.open. A cancelled call may have opened the sequence: close it."""
        self._admit()
        await self._engine.open(sequence_id, capacity_tokens=capacity_tokens, sampling=sampling)

    async def submit(self, item: StepItem, *, lease_key: bytes = b"") -> StepResult:
        """Queue a step and wait for its result.

        Raises the item's own StepInvalid, QueueFull, StepCancelled when the sequence is closed or
        truncated first, and EngineDied. Cancelling the call does not take the item back: close
        or truncate the sequence for that.
        """
        self._admit()
        scheduled = self._scheduler.add(item, lease_key, self._clock())
        future: asyncio.Future[StepResult] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieve)
        self._futures[scheduled.ticket] = future
        self._wake.set()
        return await future

    async def truncate(self, sequence_id: int, position: int) -> None:
        """As Engine.truncate, after the step in flight; the sequence's queued steps are void."""
        self._admit()
        await self._control(sequence_id, lambda: self._engine.truncate(sequence_id, position))

    async def close(self, sequence_id: int) -> None:
        """As Engine.close, after the step in flight; the sequence's queued steps are void.

        Never fails for an engine that is gone: the sequence went with it.
        """
        if self._refusal is not None:
            return
        self._admit()
        try:
            await self._control(sequence_id, lambda: self._engine.close(sequence_id))
        except EngineDied:
            return

    async def statistics(self) -> RunnerStatistics:
        self._admit()
        return RunnerStatistics(
            engine=await self._engine.statistics(),
            queued_items=self._scheduler.queued_items,
            queued_rows=self._scheduler.queued_rows,
            rows_per_s=self._rate.per_s(self._clock()),
            restarts=self._restart_count,
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
            raise _copy(self._refusal)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
            self._arm_watch()

    async def _control(self, sequence_id: int, run: Callable[[], Awaitable[None]]) -> None:
        for scheduled in self._scheduler.discard(sequence_id):
            self._settle(scheduled, StepCancelled("Its sequence was closed or truncated."))
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieve)
        self._controls.append(_Control(run, future))
        self._wake.set()
        await future

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                if self._engine.died.is_set():
                    raise EngineDied("The engine's process is gone.")
                did_work = await self._run_controls()
                if batch := self._scheduler.next_batch():
                    await self._run_batch(batch)
                    did_work = True
            except EngineDied as death:
                if not await self._recover(death):
                    return
                continue
            if not did_work:
                if self._stopping.is_set():
                    return
                await self._wake.wait()

    async def _run_controls(self) -> bool:
        controls, self._controls = self._controls, []
        if not controls:
            return False
        # Sent in order without waiting in between; the engine works in that order.
        outcomes = await asyncio.gather(
            *(control.run() for control in controls), return_exceptions=True
        )
        for control, outcome in zip(controls, outcomes, strict=True):
            if control.future.done():
                continue
            if isinstance(outcome, BaseException):
                control.future.set_exception(_as_engine_error(outcome))
            else:
                control.future.set_result(None)
        return True

    async def _run_batch(self, batch: Sequence[Scheduled]) -> None:
        try:
            results = await self._engine.step([scheduled.item for scheduled in batch])
        except Exception as error:  # the task must outlive any one batch
            failure = _as_engine_error(error)
            for scheduled in batch:
                self._settle(scheduled, _copy(failure))
            if isinstance(error, EngineDied):
                raise
            return
        for scheduled, result in zip(batch, results, strict=True):
            self._settle(scheduled, result)
        self._rate.add(sum(scheduled.item.count for scheduled in batch), self._clock())

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
            except EngineError as error:
                logger.warning("The engine did not start again: %s", error)
                self._refusal = _copy(error)
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
        if self._on_restart is None:
            return
        try:
            await self._on_restart()
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
        for scheduled in self._scheduler.discard_all():
            self._settle(scheduled, _copy(error))

    def _fail_all(self, error: EngineError) -> None:
        self._fail_queued(error)
        controls, self._controls = self._controls, []
        futures: list[asyncio.Future[Any]] = [*self._futures.values()]
        for future in futures + [control.future for control in controls]:
            if not future.done():
                future.set_exception(_copy(error))
        self._futures.clear()

    def _settle(self, scheduled: Scheduled, outcome: StepResult | EngineError) -> None:
        future = self._futures.pop(scheduled.ticket, None)
        if future is None or future.done():
            return
        if isinstance(outcome, EngineError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def _copy(error: EngineError) -> EngineError:
    """One exception object a waiter: raising a shared one would pile up tracebacks on it."""
    return type(error)(error.message, hint=error.hint)


def _as_engine_error(error: BaseException) -> EngineError:
    if isinstance(error, EngineError):
        return _copy(error)
    logger.error("The engine failed in an unforeseen way.", exc_info=error)
    return EngineError(f"The engine failed: {error!r}")


def _retrieve(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()  # its caller may be gone; asyncio would complain of nobody looking
