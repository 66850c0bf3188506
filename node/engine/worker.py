"""EngineWorker: an engine in a process of its own, as the parent's event loop sees it.

A busy engine would hold the GIL for milliseconds at a time and with it every stream of the node;
and a crash in a compute library would take the node along. The child is served by
worker_main.py; process.py is one life of it; arrays travel through channel.py.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from node.engine.base import (
    EngineInfo,
    EngineStatistics,
    Output,
    ShardSpec,
    StepItem,
    StepResult,
)
from node.engine.channel import BATCH_ROWS_MAX
from node.engine.errors import EngineDied, StepInvalid
from node.engine.message import (
    Operation,
    decode_error,
    decode_statistics,
    encode_drawn,
    encode_items,
    encode_spec,
    result_shape,
)
from node.engine.process import WorkerProcess
from node.engine.sampler import validate_drawn
from node.engine.validation import find_shape_fault
from protocol.errors import EngineError, LocalProtocolError
from protocol.record import decode_fields, encode_fields
from protocol.route import Span
from protocol.sampling import SamplingParameters

__all__ = ["EngineWorker"]

T = TypeVar("T")

START_TIMEOUT_S = 600.0
"""Loading a shard: 40 GiB from a slow disk at 100 MB/s takes seven minutes."""

REPLY_TIMEOUT_S = 300.0
"""One step and what is queued before it: 1024 rows of a large span on a slow CPU take a minute."""

STOP_TIMEOUT_S = 5.0
"""From STOP to SIGKILL; the child has at most one step to finish and nothing to save."""


class EngineWorker:
    """A shard in a child process. Use from one event loop; every method may be called at once.

    Cancelling a call does not undo it: the child answers requests in the order they were made.
    """

    def __init__(
        self, spec: ShardSpec, backend: str, *, start_timeout_s: float, reply_timeout_s: float
    ) -> None:
        self.died = asyncio.Event()
        """Set when the process is gone without having been stopped; cleared by restart."""
        self._spec = spec
        self._backend = backend
        self._start_timeout_s = start_timeout_s
        self._reply_timeout_s = reply_timeout_s
        self._process: WorkerProcess | None = None
        self._info: EngineInfo | None = None
        self._watch: asyncio.Task[None] | None = None
        self._area_is_free = asyncio.Lock()

    @classmethod
    async def start(
        cls,
        spec: ShardSpec,
        *,
        backend: str,
        start_timeout_s: float = START_TIMEOUT_S,
        reply_timeout_s: float = REPLY_TIMEOUT_S,
    ) -> "EngineWorker":
        """Load the shard in a new process; raises what loading raised, or EngineDied."""
        worker = cls(
            spec, backend, start_timeout_s=start_timeout_s, reply_timeout_s=reply_timeout_s
        )
        await worker._load()
        return worker

    @property
    def info(self) -> EngineInfo:
        if self._info is None:
            raise LocalProtocolError("The engine's worker was not started.")
        return self._info

    @property
    def pid(self) -> int:
        """Of the child, for a supervisor's or a test's eyes."""
        return self._alive().pid

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
        # Here already: the message has four bytes for an id.
        validate_drawn(drawn, drawn_at, capacity_tokens, vocabulary_size=self.info.vocabulary_size)
        fields = None if sampling is None else encode_fields(sampling)
        layers = None if span is None else [span.start, span.end]
        past = [drawn_at, encode_drawn(drawn)]
        payload = [sequence_id, capacity_tokens, fields, layers, list(prefix), *past]
        return await self._ask(Operation.OPEN, payload, int)

    async def step(self, batch: Sequence[StepItem]) -> list[StepResult | EngineError]:
        """As Engine.step; the results' arrays are the caller's own.

        One step is in flight at a time; a second call waits for it. Raises EngineDied, and
        EngineError when the engine failed as a whole.
        """
        hidden_size = self.info.hidden_size
        faults = [find_shape_fault(item, hidden_size) for item in batch]
        sound = [item for item, fault in zip(batch, faults, strict=True) if fault is None]
        if sum(item.count for item in sound) > BATCH_ROWS_MAX:
            raise StepInvalid(f"A batch has at most {BATCH_ROWS_MAX} rows.")
        ran = iter(await self._step(sound, hidden_size) if sound else [])
        return [next(ran) if fault is None else fault for fault in faults]

    async def truncate(self, sequence_id: int, position: int) -> None:
        await self._ask(Operation.TRUNCATE, [sequence_id, position], _ignore)

    async def close(self, sequence_id: int, *, keep: Sequence[bytes] = ()) -> None:
        await self._ask(Operation.CLOSE, [sequence_id, list(keep)], _ignore)

    async def statistics(self) -> EngineStatistics:
        return await self._ask(Operation.STATISTICS, None, decode_statistics)

    async def restart(self) -> None:
        """Load the same shard in a new process. One still alive is killed; no sequence is left."""
        await self._end()
        self.died.clear()
        await self._load()

    async def stop(self) -> None:
        """End the process; calls that still wait raise EngineDied. `died` is not set."""
        process = self._process
        if process is not None and not process.gone.is_set():
            process.request(Operation.STOP, None, _ignore, STOP_TIMEOUT_S)
            self._disregard_death()
            await process.wait_gone()
        await self._end()

    async def _load(self) -> None:
        process = await WorkerProcess.spawn(threads=self._spec.threads)
        payload = {
            "backend": self._backend,
            "spec": encode_spec(self._spec),
            "log_level": logging.getLogger().getEffectiveLevel(),
        }
        try:
            self._info = await process.request(
                Operation.LOAD,
                payload,
                lambda fields: decode_fields(EngineInfo, fields),
                self._start_timeout_s,
            )
            process.channel.map(self._info.hidden_size)
        except BaseException:
            process.kill()
            await process.wait_gone()
            raise
        self._process = process
        self._area_is_free = asyncio.Lock()
        self._watch = asyncio.create_task(self._watch_for_death(process))

    async def _watch_for_death(self, process: WorkerProcess) -> None:
        await process.wait_gone()
        self.died.set()

    def _disregard_death(self) -> None:
        if self._watch is not None:
            self._watch.cancel()

    async def _end(self) -> None:
        self._disregard_death()
        if self._watch is not None:
            await asyncio.wait([self._watch])
        if self._process is not None:
            self._process.kill()
            await self._process.wait_gone()

    def _alive(self) -> WorkerProcess:
        if self._process is None:
            raise EngineDied("The engine's process was not started.")
        if self._process.gone.is_set():
            raise self._process.failure()
        return self._process

    async def _ask(self, operation: Operation, payload: object, decode: Callable[[Any], T]) -> T:
        return await self._alive().request(operation, payload, decode, self._reply_timeout_s)

    async def _step(
        self, batch: Sequence[StepItem], hidden_size: int
    ) -> list[StepResult | EngineError]:
        lock = self._area_is_free
        await lock.acquire()
        try:
            process = self._alive()
            arrays = [item.hidden if item.tokens is None else item.tokens for item in batch]
            process.channel.input.write([array for array in arrays if array is not None])
            reply = process.request(
                Operation.STEP,
                encode_items(batch),
                lambda entries: _read_results(process, batch, entries, hidden_size),
                self._reply_timeout_s,
            )
        except BaseException:
            lock.release()
            raise
        # The areas are free when the child has answered, not when our caller loses patience:
        # results are copied out as the reply is read, before the next step may write.
        reply.add_done_callback(lambda _: lock.release())
        return await asyncio.shield(reply)


def _read_results(
    process: WorkerProcess,
    batch: Sequence[StepItem],
    entries: Sequence[Any],
    hidden_size: int,
) -> list[StepResult | EngineError]:
    """Copies of the output area's arrays, with the refusals in their places."""
    ran = [item for item, entry in zip(batch, entries, strict=True) if entry is None]
    views = iter(process.channel.output.read([result_shape(item, hidden_size) for item in ran]))
    results: list[StepResult | EngineError] = []
    for item, entry in zip(batch, entries, strict=True):
        if entry is not None:
            results.append(decode_error(entry))
        elif item.output is Output.TOKENS:
            results.append(StepResult(tokens=next(views).copy()))
        else:
            results.append(StepResult(hidden=next(views).copy()))
    return results


def _ignore(_: object) -> None:
    """The reply says only that it was done."""
