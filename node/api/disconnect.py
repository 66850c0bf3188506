"""Cancel work when the client that wanted it has gone.

A server learns of a vanished client only by receiving: so while an answer runs, somebody must wait
in `receive`. (Polling `is_disconnected` under a decorator middleware never sees it.) A client whose
network is gone says nothing at all; it shows when sending to it takes too long.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Message, Receive, Send

__all__ = ["ClientGone", "cancelled_on_disconnect", "send_within"]

SEND_TIMEOUT_S = 30.0
"""A client that does not take 64 KiB in this time is gone, or might as well be."""


class ClientGone(Exception):
    """Nobody is there to be answered. Not an error of anybody's; nothing can be sent."""


@asynccontextmanager
async def cancelled_on_disconnect(receive: Receive) -> AsyncIterator[None]:
    """Cancel the body as soon as the client disconnects, and raise ClientGone in its place.

    `receive` must have given the whole request already. A cancellation from outside passes through.
    """
    # a timeout without a time is the standard library's way to cancel the current task and to tell
    # that cancellation from any other
    scope = asyncio.timeout(None)
    try:
        async with scope:
            watcher = asyncio.create_task(_expire_on_disconnect(receive, scope))
            try:
                yield
            finally:
                watcher.cancel()
                await asyncio.gather(watcher, return_exceptions=True)
    except TimeoutError as error:
        if scope.expired():
            raise ClientGone from error
        raise


async def _expire_on_disconnect(receive: Receive, scope: asyncio.Timeout) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.reschedule(asyncio.get_running_loop().time())


def send_within(send: Send, timeout_s: float = SEND_TIMEOUT_S) -> Send:
    """`send` that raises ClientGone when the client does not read."""

    async def bounded(message: Message) -> None:
        try:
            async with asyncio.timeout(timeout_s) as scope:
                await send(message)
        except TimeoutError as error:
            if scope.expired():
                raise ClientGone from error
            raise
        except OSError as error:  # what ASGI servers of version 2.4 raise once the client is gone
            raise ClientGone from error

    return bounded
