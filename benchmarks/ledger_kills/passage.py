"""The way from the pool's nodes to the marketplaces: a balancer of HTTP, and the place where a
gateway is killed at a request of its own.

A request is passed on as it came. Where a marketplace dies under it, the connection is closed
without an answer, for what became of it is not known; only one that nobody took goes to the next.
"""

import contextlib
import http.client
import sys
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from benchmarks.ledger_kills.moments import Moments

__all__ = ["Passage"]

TIMEOUT_S = 20.0
"""Longer than a node waits for an answer."""
BODY_BYTES_MAX = 16 * 2**20
HOP_BY_HOP = frozenset({"connection", "host", "keep-alive", "transfer-encoding", "content-length"})


class Passage(ThreadingHTTPServer):
    """One port. `gateway`: whose requests come here, by its number; None: the providers'."""

    daemon_threads = True

    def __init__(
        self, port: int, markets: Sequence[str], moments: Moments, gateway: int | None
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.markets = [urlsplit(url).netloc for url in markets]
        self.moments = moments
        self.gateway = gateway
        self.turn = 0

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever asked may be dead before the answer: that is what this is for."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            sys.stderr.write(f"the passage failed: {error!r}\n")

    def reach(self, name: str) -> bool:
        """A moment of the gateway's, where this is a gateway's passage; whether it died of it."""
        return bool(self.gateway is not None and name and self.moments.reach(self.gateway, name))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Passage

    def log_message(self, *_: object) -> None:
        """Nothing: the marketplace has a log of its own."""

    def _pass(self) -> None:
        size = int(self.headers.get("content-length") or 0)
        if size > BODY_BYTES_MAX:
            self.close_connection = True
            return
        body = self.rfile.read(size)
        wanted = _wanted(self.command, self.path)
        # who died before it was sent has not sent it
        died = self.server.reach(wanted and f"gateway.{wanted}.before")
        answer = None if died else self._forward(body)
        if answer is None:
            self.close_connection = True
            return
        response, data = answer
        self.server.reach(wanted and f"gateway.{wanted}.after")
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in HOP_BY_HOP | {"date", "server"}:
                self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _pass  # noqa: N815 - http.server's own names

    def _forward(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes] | None:
        """The answer of the first marketplace that takes it; None where it was lost."""
        headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP}
        self.server.turn += 1
        hosts = self.server.markets
        for number in range(len(hosts)):
            host = hosts[(self.server.turn + number) % len(hosts)]
            connection = http.client.HTTPConnection(host, timeout=TIMEOUT_S)
            try:
                connection.connect()
            except OSError:
                continue
            with (
                contextlib.closing(connection),
                contextlib.suppress(OSError, http.client.HTTPException),
            ):
                connection.request(self.command, self.path, body or None, headers)
                response = connection.getresponse()
                return response, response.read()
            return None
        return None


def _wanted(method: str, path: str) -> str:
    """What of `moments.ASKED_FOR` this is, or empty."""
    if method != "POST":
        return ""
    if path in ("/v1/quotes", "/v1/leases"):
        return path.removeprefix("/v1/").removesuffix("s")
    last = path.rpartition("/")[2]
    return {"extensions": "extension", "close": "close"}.get(last, "")
