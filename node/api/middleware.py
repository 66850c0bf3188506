"""What surrounds every request, as plain ASGI: ids and times, unknown errors, drain, body size.

Plain ASGI and nothing else: Starlette's function middleware hides a client's disconnect from the
endpoint, and then answers run on, paid for, with nobody to read them.
"""

import asyncio
import secrets
import time

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.api.errors import SHUTTING_DOWN, logged_problem, problem_of, request_id_of
from node.api.readiness import Readiness

__all__ = ["BodyLimit", "DrainGate", "ErrorGuard", "RequestMarks"]

BODY_BYTES_MAX = 8 * 2**20
"""A request's body: a context of a million tokens is about 4 MiB of text."""

BODY_DISCARD_BYTES_MAX = 64 * 2**20
"""Read and thrown away after a body was found too large, so that the client gets to read why."""

BODY_WAIT_S = 30.0
"""Silence in the middle of a request's body."""


class RequestMarks:
    """`x-request-id` and `openai-processing-ms` on every response; the id also in scope state."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(16)}"
        scope.setdefault("state", {})["request_id"] = request_id
        started_s = time.monotonic()

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                elapsed_ms = (time.monotonic() - started_s) * 1000
                headers["openai-processing-ms"] = str(round(elapsed_ms))
            await send(message)

        await self._app(scope, receive, marked)


class ErrorGuard:
    """An unforeseen error becomes OpenAI's 500, and its traceback goes to the log, never out.

    Starlette has such a guard of its own, but outside of all other layers, where no request id is.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_started = False

        async def watched(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError as error:  # the server shuts down and waits no longer
            if not is_started and scope["type"] == "http":
                await problem_of(error).response()(scope, receive, send)
            raise
        except Exception as error:  # the outermost edge: there is nobody above to handle it
            problem = logged_problem(error, request_id_of(scope))
            if is_started or scope["type"] != "http":
                raise
            await problem.response()(scope, receive, send)


class DrainGate:
    """While draining, nothing new begins: 503 to every POST. Reading stays possible."""

    def __init__(self, app: ASGIApp, readiness: Readiness) -> None:
        self._app = app
        self._readiness = readiness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_new_work = scope["type"] == "http" and scope["method"] == "POST"
        if is_new_work and self._readiness.is_draining:
            await SHUTTING_DOWN.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)


class BodyLimit:
    """413 for a body above `bytes_max`, whatever its header says; 408 for one that stalls."""

    def __init__(self, app: ASGIApp, bytes_max: int) -> None:
        self._app = app
        self._bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _BoundedBody(receive, self._bytes_max)
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > self._bytes_max:
            if "expect" not in headers:  # who waits for 100-continue has sent nothing yet
                await body.discard()
            await problem_of(_too_large(self._bytes_max)).response()(scope, receive, send)
            return
        await self._app(scope, body.receive, send)


class _BoundedBody:
    """`receive` that counts. After the body has ended it waits as long as the server does."""

    def __init__(self, receive: Receive, bytes_max: int) -> None:
        self._receive = receive
        self._bytes_max = bytes_max
        self._bytes_seen = 0
        self._is_complete = False

    async def receive(self) -> Message:
        message = await self._next()
        if self._bytes_seen > self._bytes_max:
            await self.discard()
            raise _too_large(self._bytes_max)
        return message

    async def discard(self) -> None:
        """Read on to the body's end, within bounds of its own."""
        while not self._is_complete and self._bytes_seen < BODY_DISCARD_BYTES_MAX:
            await self._next()

    async def _next(self) -> Message:
        if self._is_complete:
            return await self._receive()
        try:
            async with asyncio.timeout(BODY_WAIT_S):
                message = await self._receive()
        except TimeoutError as error:
            raise HTTPException(408, "The request's body did not arrive in time.") from error
        self._bytes_seen += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        return message


def _too_large(bytes_max: int) -> HTTPException:
    return HTTPException(413, f"The request's body is larger than {bytes_max} bytes.")
