"""A real server on loopback with a fake head behind it."""

import threading
import time
from collections.abc import Callable, Iterator

import httpx
import openai
import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from node.api.application import create_api
from node.api.readiness import Readiness, ReadyState
from node.api.settings import ApiSettings
from node.head.testing import FakeHead

NOW_S = 1_795_000_000
WAIT_S = 5.0
"""For something that should happen at once; only a failure takes this long."""


class Server:
    """A server in a thread of its own; `api` may be exchanged between requests."""

    def __init__(self, *, drain_s: float) -> None:
        self.api: ASGIApp | None = None
        config = uvicorn.Config(
            self._answer,
            host="127.0.0.1",
            port=0,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_level="critical",
            timeout_graceful_shutdown=drain_s,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started)
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.api(scope, receive, send)

    def begin_stop(self) -> None:
        self._server.should_exit = True

    def stop(self) -> None:
        self.begin_stop()
        self._thread.join(WAIT_S)


class Served:
    """One API on a server, and clients of it."""

    def __init__(self, server: Server, head: FakeHead, settings: ApiSettings) -> None:
        self.head = head
        self.readiness = Readiness(ReadyState.READY)
        server.api = create_api(head, readiness=self.readiness, settings=settings)
        self.begin_stop = server.begin_stop
        self.port = server.port
        self.url = f"http://127.0.0.1:{server.port}"
        self.http = httpx.Client(base_url=self.url, timeout=WAIT_S)
        self.sdk = openai.OpenAI(
            base_url=f"{self.url}/v1", api_key="pw-test", max_retries=0, timeout=WAIT_S
        )

    def close(self) -> None:
        self.sdk.close()
        self.http.close()


@pytest.fixture(scope="session")
def shared_server() -> Iterator[Server]:
    """Starting and stopping takes longer than most tests."""
    server = Server(drain_s=1)
    yield server
    server.stop()


@pytest.fixture
def serve(shared_server: Server) -> Iterator[Callable[..., Served]]:
    """`serve(head, **settings)`, once a test."""
    served: list[Served] = []

    def start(head: FakeHead | None = None, **options: object) -> Served:
        served.append(Served(shared_server, head or FakeHead(), fixed_settings(options)))
        return served[-1]

    yield start
    for one in served:
        one.close()


@pytest.fixture
def serve_alone() -> Iterator[Callable[..., Served]]:
    """As `serve`, on a server that the test may stop, which then waits for nobody."""
    server = Server(drain_s=0)
    served: list[Served] = []

    def start(head: FakeHead, **options: object) -> Served:
        served.append(Served(server, head, fixed_settings(options)))
        return served[-1]

    yield start
    for one in served:
        one.close()
    server.stop()


def fixed_settings(options: dict[str, object]) -> ApiSettings:
    return ApiSettings(**{"now_s": lambda: NOW_S, "draw_seed": lambda: 7, **options})


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    return wait_until


def wait_until(is_so: Callable[[], object]) -> None:
    """Poll; the server's loop is another thread's."""
    deadline_s = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.005)
