"""An HTTP server inside this process's event loop, with the signals left to the program."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from fastapi import FastAPI

from node.errors import ConfigInvalid

__all__ = ["serve_api"]

START_TIMEOUT_S = 10.0
SHUTDOWN_TIMEOUT_S = 5
"""Connections that are open when the program leaves get this long; it has drained before."""
BACKLOG = 512


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ctrl-C belongs to the program, which drains before it stops us."""
        yield


@contextlib.asynccontextmanager
async def serve_api(app: FastAPI, host: str, port: int) -> AsyncIterator[str]:
    """Serve for as long as the block runs; gives the base URL. Port 0 takes a free one.

    Raises ConfigInvalid when the port is taken.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigInvalid(
            f"Port {port} at {host} cannot be used: {error.strerror}.",
            hint="Choose another one with --port (piecework up: --api-port).",
        ) from error
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
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
