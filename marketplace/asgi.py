"""What wraps every request: an id, a limit on its body, and an answer even to our own bugs.

Pure ASGI, so that streaming and cancellation pass through untouched.
"""

import json
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from marketplace.errors import BodyTooLarge, error_body
from protocol.limits import MANIFEST_BYTES_MAX

__all__ = ["BodyLimit", "RequestId"]

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID = b"x-request-id"
BODY_BYTES_MAX = 4 * 1024 * 1024
"""A thousand receipts in base64 are about 1 MB."""
MANIFESTS = "/v1/manifests/"
_ID_FORM = re.compile(rb"[A-Za-z0-9_-]{1,64}")


class RequestId:
    """Gives each answer the request's own `x-request-id`, or a new one; and answers our bugs."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(REQUEST_ID, b"")
        request_id = given if _ID_FORM.fullmatch(given) else secrets.token_hex(16).encode()
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, request_id)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:  # the edge of a request: the client gets words, the log the traceback
            log.exception("request %s failed", request_id.decode())
            if not started:
                body = error_body("internal", "The marketplace made a mistake.", "Try again later.")
                await _answer(send_with_id, 500, body)


class BodyLimit:
    """Reads the whole body up to its limit before the application sees the request."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        manifest = scope["method"] == "PUT" and scope["path"].startswith(MANIFESTS)
        limit = MANIFEST_BYTES_MAX if manifest else BODY_BYTES_MAX
        try:
            body = await _read(scope, receive, limit)
        except BodyTooLarge as error:
            await _answer(send, error.status_code, error.body())
            return
        if body is None:
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, receive_again, send)


async def _read(scope: Scope, receive: Receive, limit: int) -> bytes | None:
    """The body; None if the client has gone. Raises BodyTooLarge as soon as it is known."""
    length = dict(scope["headers"]).get(b"content-length", b"")
    too_large = BodyTooLarge(f"A body here has at most {limit} bytes.", hint="Send less at once.")
    if length.isdigit() and int(length) > limit:
        raise too_large
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def _answer(send: Send, status_code: int, body: dict[str, object]) -> None:
    data = json.dumps(body).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(data)).encode()),
    ]
    await send({"type": "http.response.start", "status": status_code, "headers": headers})
    await send({"type": "http.response.body", "body": data})
