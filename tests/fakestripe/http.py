"""HTTP/1.1 over loopback, small enough to cut a connection at will, which no framework lets one do.

One event loop in a thread of its own. It understands what HTTP clients of today send: a request
line, headers, a body of Content-Length; connections are kept alive.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from tests.fakestripe.idempotency import Reply

__all__ = ["HttpServer", "Outcome", "Request"]

HEAD_BYTES_MAX = 32 * 1024
BODY_BYTES_MAX = 1024 * 1024
START_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Request:
    """One request; header names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to do with a request: send `reply`, or cut the connection where there is none.

    After `delay_s`; `finished` is called when that time is over, before anything is sent.
    """

    reply: Reply | None
    delay_s: float = 0
    finished: Callable[[], None] | None = None


class HttpServer:
    """Serves `handle` on a free port of 127.0.0.1 until `stop`; it is called in one thread."""

    def __init__(self, handle: Callable[[Request], Outcome], *, port: int = 0) -> None:
        self._handle = handle
        self._loop = asyncio.new_event_loop()
        self._connections: set[asyncio.Transport] = set()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(port,), name="fakestripe")
        self._thread.daemon = True
        self.port = port

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(START_TIMEOUT_S), "the fake does not start"

    def stop(self) -> None:
        """Cut every connection and end the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_TIMEOUT_S)

    def _run(self, port: int) -> None:
        asyncio.set_event_loop(self._loop)
        opening = self._loop.create_server(self._connect, "127.0.0.1", port)
        server = self._loop.run_until_complete(opening)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        for transport in list(self._connections):
            transport.abort()
        server.close()
        self._loop.run_until_complete(server.wait_closed())
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _connect(self) -> asyncio.Protocol:
        return _Connection(self._handle, self._connections)


class _Connection(asyncio.Protocol):
    """One client, whose requests are answered in order."""

    def __init__(
        self, handle: Callable[[Request], Outcome], connections: set[asyncio.Transport]
    ) -> None:
        self._handle = handle
        self._connections = connections
        self._buffer = bytearray()
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def _next(self) -> None:
        if self._busy:
            return
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_BYTES_MAX:
                self._transport.abort()
            return
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        length = int(headers.get("content-length", "0"))
        if length > BODY_BYTES_MAX:
            self._transport.abort()
            return
        whole = end + 4 + length
        if len(self._buffer) < whole:
            return
        body = bytes(self._buffer[end + 4 : whole])
        del self._buffer[:whole]
        method, target, _ = lines[0].split(" ", 2)
        url = urlsplit(target)
        self._busy = True
        outcome = self._handle(Request(method, url.path, url.query, headers, body))
        if outcome.delay_s:
            loop = asyncio.get_running_loop()
            loop.call_later(outcome.delay_s, self._finish, outcome)
        else:
            self._finish(outcome)

    def _finish(self, outcome: Outcome) -> None:
        if outcome.finished:
            outcome.finished()
        self._busy = False
        if outcome.reply is None:
            self._transport.abort()
            return
        reply = outcome.reply
        head = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}"]
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(reply.body)),
            **reply.headers,
        }
        head += [f"{name}: {value}" for name, value in headers.items()]
        self._transport.write("\r\n".join(head).encode() + b"\r\n\r\n" + reply.body)
        self._next()
