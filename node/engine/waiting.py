"""The futures that callers of an EngineRunner wait on, and how they are told of the end."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from node.engine.base import StepResult
from node.engine.parts import join
from protocol.errors import EngineError

__all__ = ["Control", "Waiters", "as_engine_error", "copy_error", "run_controls"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Control:
    """A truncate or close waiting for its place between two batches."""

    run: Callable[[], Awaitable[None]]
    future: "asyncio.Future[None]"


class Waiters:
    """Steps by their scheduler's ticket, and controls in the order they came."""

    def __init__(self) -> None:
        self._steps: dict[int, asyncio.Future[StepResult]] = {}
        self._parts: dict[int, list[StepResult]] = {}
        """What a step's first parts yielded; only of steps that run in parts and are awaited."""
        self._controls: list[Control] = []

    def add_step(self, ticket: int) -> "asyncio.Future[StepResult]":
        future: asyncio.Future[StepResult] = _new_future()
        self._steps[ticket] = future
        return future

    def add_control(self, run: Callable[[], Awaitable[None]]) -> "asyncio.Future[None]":
        future: asyncio.Future[None] = _new_future()
        self._controls.append(Control(run, future))
        return future

    def take_controls(self) -> list[Control]:
        taken, self._controls = self._controls, []
        return taken

    def keep_part(self, ticket: int, result: StepResult) -> None:
        """Put by what a part yielded, until the last one settles the step."""
        future = self._steps.get(ticket)
        if future is not None and not future.done():
            self._parts.setdefault(ticket, []).append(result)

    def settle(self, ticket: int, outcome: StepResult | EngineError) -> None:
        """Give a step its outcome, joined to its parts'; its caller may be gone already."""
        parts = self._parts.pop(ticket, None)
        future = self._steps.pop(ticket, None)
        if future is None or future.done():
            return
        if isinstance(outcome, EngineError):
            future.set_exception(outcome)
        else:
            future.set_result(join([*parts, outcome]) if parts else outcome)

    def fail_all(self, error: EngineError) -> None:
        """Fail every step and control that waits, each with an exception of its own."""
        waiting: list[asyncio.Future[Any]] = [*self._steps.values()]
        waiting += [control.future for control in self.take_controls()]
        self._steps.clear()
        self._parts.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(copy_error(error))


async def run_controls(controls: Sequence[Control]) -> None:
    """Run them in order. None waits for the one before: the engine itself works in that order."""
    outcomes = await asyncio.gather(
        *(control.run() for control in controls), return_exceptions=True
    )
    for control, outcome in zip(controls, outcomes, strict=True):
        if control.future.done():
            continue
        if isinstance(outcome, BaseException):
            control.future.set_exception(as_engine_error(outcome))
        else:
            control.future.set_result(None)


def copy_error(error: EngineError) -> EngineError:
    """One exception object a waiter: raising a shared one would pile up tracebacks on it."""
    return type(error)(error.message, hint=error.hint)


def as_engine_error(error: BaseException) -> EngineError:
    if isinstance(error, EngineError):
        return copy_error(error)
    logger.error("The engine failed in an unforeseen way.", exc_info=error)
    return EngineError(f"The engine failed: {error!r}")


def _new_future() -> "asyncio.Future[Any]":
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.add_done_callback(_retrieve)
    return future


def _retrieve(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()  # its caller may be gone; asyncio would complain of nobody looking
