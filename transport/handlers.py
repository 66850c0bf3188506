"""The protocols a host serves, and the tasks that serve them."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final, Protocol, TypeVar

from protocol.errors import PieceworkError
from transport.base import Stream, StreamHandler
from transport.quic.seams import ResetCode

__all__ = ["Handlers"]

log = logging.getLogger(__name__)

T = TypeVar("T")

CANCEL_TIMEOUT_S: Final = 5.0
"""A handler that does not end by then is broken; closing the host must not hang on it."""


class _Closable(Protocol):
    def close(self) -> None: ...


class Handlers:
    """Owned by one host. Every task is kept here, so that closing the host ends all of them."""

    def __init__(self, cancel_timeout_s: float = CANCEL_TIMEOUT_S) -> None:
        self._cancel_timeout_s = cancel_timeout_s
        self._handlers: dict[str, StreamHandler] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def task_count(self) -> int:
        return len(self._tasks)

    def set(self, protocol: str, handler: StreamHandler | None) -> None:
        if handler is None:
            self._handlers.pop(protocol, None)
        else:
            self._handlers[protocol] = handler

    @property
    def protocols(self) -> tuple[str, ...]:
        return tuple(self._handlers)

    def is_served(self, protocol: str) -> bool:
        return protocol in self._handlers

    def serve(self, stream: Stream, closable: _Closable, protocol: str) -> None:
        """Run the protocol's handler for `stream` in a task of its own."""
        handler = self._handlers.get(protocol)
        if handler is None:
            stream.reset(ResetCode.PROTOCOL_NOT_SUPPORTED)
        else:
            self.spawn(_serve(handler, stream, closable, protocol))

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def cancel(self) -> None:
        """Cancel all tasks and wait for their end, but not for ever."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=self._cancel_timeout_s)
            if stuck:
                log.warning("%d tasks did not end when they were cancelled", len(stuck))


async def _serve(
    handler: StreamHandler, stream: Stream, closable: _Closable, protocol: str
) -> None:
    try:
        await handler(stream)
    except PieceworkError as error:
        log.info("%s with %s ended: %s", protocol, stream.peer_id.short, error)
        stream.reset(ResetCode.HANDLER_FAILED)
    except asyncio.CancelledError:
        stream.reset(ResetCode.HANDLER_FAILED)
        raise
    except Exception:
        log.exception("the handler of %s failed", protocol)
        stream.reset(ResetCode.HANDLER_FAILED)
    else:
        closable.close()
