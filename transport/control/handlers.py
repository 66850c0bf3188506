"""The protocols that a control host serves, and the tasks that serve them."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

from protocol.errors import PieceworkError
from transport.control.base import ControlHandler, ControlStream

__all__ = ["ControlHandlers"]

log = logging.getLogger(__name__)

CANCEL_TIMEOUT_S: Final = 5.0
"""A handler that does not end by then is broken; closing the host must not hang on it."""


class ControlHandlers:
    """Owned by one host. Every task is kept here, so that closing the host ends all of them."""

    def __init__(self) -> None:
        self._handlers: dict[str, ControlHandler] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def task_count(self) -> int:
        return len(self._tasks)

    @property
    def protocols(self) -> tuple[str, ...]:
        return tuple(self._handlers)

    def set(self, protocol: str, handler: ControlHandler | None) -> None:
        if handler is None:
            self._handlers.pop(protocol, None)
        else:
            self._handlers[protocol] = handler

    def is_served(self, protocol: str) -> bool:
        return protocol in self._handlers

    async def serve(self, stream: ControlStream, protocol: str) -> None:
        """Run the protocol's handler; afterwards close the stream, or reset it if that failed."""
        handler = self._handlers.get(protocol)
        if handler is None:  # it stopped being served since it was agreed on
            await stream.reset()
            return
        try:
            await handler(stream)
        except PieceworkError as error:
            log.debug("%s with %s ended: %s", protocol, stream.peer_id.short, error)
            await stream.reset()
        except asyncio.CancelledError:
            await stream.reset()
            raise
        except Exception:
            log.exception("the handler of %s failed", protocol)
            await stream.reset()
        else:
            await stream.close()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def cancel(self) -> None:
        """Cancel all tasks and wait for their end, but not for ever."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=CANCEL_TIMEOUT_S)
            if stuck:
                log.warning("%d control handlers did not end when cancelled", len(stuck))
