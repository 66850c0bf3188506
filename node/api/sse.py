"""Server-sent events as OpenAI's clients read them: bytes, keep-alive, headers.

Every event is one line of `data: ` with JSON, and an empty line. Comments (a line that begins with
a colon) keep proxies from closing a stream that waits; every conforming parser skips them.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Final, TypeVar

from starlette.types import Send

from node.api.disconnect import ClientGone

__all__ = ["DONE", "KEEP_ALIVE", "STREAM_HEADERS", "event", "send_events", "with_ticks"]

Item = TypeVar("Item")

KEEP_ALIVE_S: Final = 10.0
"""Proxies close idle streams after 60 to 100 s, the strictest known after 15."""

KEEP_ALIVE: Final = b": keep-alive\n\n"
DONE: Final = b"data: [DONE]\n\n"

STREAM_HEADERS: Final[Mapping[str, str]] = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx buffers a whole answer otherwise
}

_LINE_BREAKS: Final = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
"""Legal inside JSON strings, and line ends to clients that split text and not bytes."""


def event(data: Mapping[str, object]) -> bytes:
    """One event. JSON puts control characters into escapes, so the data is always one line."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text.translate(_LINE_BREAKS)}\n\n".encode()


async def send_events(
    send: Send,
    events: AsyncGenerator[bytes],
    *,
    headers: Mapping[str, str],
    failed: Callable[[BaseException], bytes],
) -> None:
    """Send a whole response of `events`; an error becomes a last event, made by `failed`.

    The status is long sent when an answer breaks, so the stream itself has to say it. A cancelled
    stream says so too: either the server shuts down, or nobody is there to read it.
    """

    async def send_body(data: bytes, *, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": more})

    raw_headers = [
        (name.encode("latin-1"), text.encode("latin-1")) for name, text in headers.items()
    ]
    await send({"type": "http.response.start", "status": 200, "headers": raw_headers})
    async with aclosing(events):
        try:
            async for data in events:
                await send_body(data)
        except ClientGone:
            raise
        except asyncio.CancelledError as error:
            await send_body(failed(error))
            await send_body(b"", more=False)
            raise
        except Exception as error:  # whatever broke, the client must not take this for the end
            await send_body(failed(error))
    await send_body(b"", more=False)


async def with_ticks(items: AsyncIterator[Item], tick_s: float) -> AsyncGenerator[Item | None]:
    """The items as they come, and None whenever `tick_s` has passed without one.

    Close it (`contextlib.aclosing`) when leaving early: it then cancels the item it waits for.
    """
    pending: asyncio.Task[Item] | None = None
    try:
        while True:
            if pending is None:
                pending = asyncio.create_task(_next(items))
            done, _ = await asyncio.wait({pending}, timeout=tick_s)
            if not done:
                yield None
                continue
            finished, pending = pending, None
            try:
                item = finished.result()
            except StopAsyncIteration:
                return
            yield item
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
        if isinstance(items, AsyncGenerator):  # else it would end when the collector finds it
            await items.aclose()


async def _next(items: AsyncIterator[Item]) -> Item:
    # a task wants a coroutine, and `anext` gives any awaitable
    return await anext(items)
