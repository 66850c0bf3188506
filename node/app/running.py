"""The node that runs in a home, asked by its owner: the status page that it points to."""

import asyncio
import json
from pathlib import Path
from typing import Any, Final

import httpx

from node.config import Home
from node.errors import NodeError

__all__ = ["NotRunning", "read_status"]

STATUS_TIMEOUT_S: Final = 3.0
"""The page is on this machine."""
STATUS_BYTES_MAX: Final = 4 * 2**20
"""A page of a few KiB; but another program may have the port since the node has died."""


class NotRunning(NodeError):
    """No node of this home answers."""


async def read_status(home: Path) -> dict[str, Any]:
    """The status of the node that runs in `home`; raises NotRunning."""
    hint = f"Start one with: piecework join --market URL --home {home}"
    try:
        pointer = json.loads(Home(home).status_path.read_text())
        status = json.loads(await _read(pointer["status_url"]))
        if not isinstance(status, dict):
            raise ValueError("no object")
    except (
        OSError, ValueError, KeyError, TypeError, RecursionError, httpx.HTTPError, httpx.InvalidURL
    ) as error:  # fmt: skip
        raise NotRunning(f"No node of {home} is running.", hint=hint) from error
    return status | {key: pointer[key] for key in ("api_url",) if key in pointer}


async def _read(url: str) -> bytes:
    """A page as it is; raises ValueError above STATUS_BYTES_MAX, TimeoutError (an OSError)."""
    body = bytearray()
    async with (
        asyncio.timeout(STATUS_TIMEOUT_S),
        httpx.AsyncClient(timeout=STATUS_TIMEOUT_S, trust_env=False) as client,
        client.stream("GET", url, headers={"accept-encoding": "identity"}) as answer,
    ):
        async for chunk in answer.aiter_raw():
            body += chunk
            if len(body) > STATUS_BYTES_MAX:
                raise ValueError("too large")
    return bytes(body)
