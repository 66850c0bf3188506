"""An HTTP server inside this process's event loop, with the signals left to the program."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Final

import uvicorn
from fastapi import FastAPI

from relay.errors import ConfigInvalid

__all__ = ["serve_page"]

START_TIMEOUT_S: Final = 10.0
SHUTDOWN_TIMEOUT_S: Final = 2
BACKLOG: Final = 64
CONCURRENCY_MAX: Final = 64
"""Requests at once: a person, a scraper and a health check."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM belongs to the program, which drains before it stops us."""
        yield


@contextlib.asynccontextmanager
async def serve_page(app: FastAPI, host: str, port: int) -> AsyncIterator[str]:
    """Serve for as long as the block runs; gives the base URL. Port 0 takes a free one.

    Raises ConfigInvalid when the port is taken.
    """
    listener = _listen(host, port)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        limit_concurrency=CONCURRENCY_MAX,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
        ws="none",
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            # uvicorn sets a flag, not an event
            while not server.started and not task.done():
                await asyncio.sleep(0.01)
        bound_host, bound_port = listener.getsockname()[:2]
        yield f"http://{f'[{bound_host}]' if ':' in bound_host else bound_host}:{bound_port}"
    finally:
        server.should_exit = True
        await task
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigInvalid(
            f"The status page cannot listen on {host}:{port}: {error.strerror}.",
            hint="Choose another --status-port.",
        ) from None
