"""How a running node tells its owner how it is: one page on loopback, and a file that points to it.

The file (`status.json` in the node's home) appears when the node is ready and goes when it leaves,
so scripts can wait for it.
"""

import json
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from fastapi import FastAPI

from node.api.serving import serve_api

__all__ = ["StatusPage"]


class StatusPage:
    """Serves GET /status on a free loopback port for as long as the node runs."""

    def __init__(self, path: Path, stack: AsyncExitStack, url: str) -> None:
        self.url = url
        self._path = path
        self._stack = stack

    @classmethod
    async def start(
        cls,
        path: Path,
        status: Callable[[], Awaitable[dict[str, object]]],
        *,
        api_url: str = "",
    ) -> "StatusPage":
        """Begin to answer, then write the file that says where (and where the API is)."""
        api = FastAPI(openapi_url=None)

        async def get_status() -> dict[str, object]:
            return await status()

        api.get("/status")(get_status)
        stack = AsyncExitStack()
        url = await stack.enter_async_context(serve_api(api, "127.0.0.1", 0))
        content = {"schema": 1, "pid": os.getpid(), "status_url": f"{url}/status"}
        if api_url:
            content["api_url"] = api_url
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(content))
        temporary.replace(path)
        return cls(path, stack, url)

    async def close(self) -> None:
        self._path.unlink(missing_ok=True)
        await self._stack.aclose()
