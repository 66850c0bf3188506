"""The node that runs in a home, asked by its owner: the status page that it points to."""

import json
from pathlib import Path
from typing import Any, Final

import httpx

from node.config import Home
from node.errors import NodeError

__all__ = ["NotRunning", "read_status"]

STATUS_TIMEOUT_S: Final = 3.0
"""The page is on this machine."""


class NotRunning(NodeError):
    """No node of this home answers."""


async def read_status(home: Path) -> dict[str, Any]:
    """The status of the node that runs in `home`; raises NotRunning."""
    hint = f"Start one with: piecework join --market URL --home {home}"
    try:
        pointer = json.loads(Home(home).status_path.read_text())
        async with httpx.AsyncClient(timeout=STATUS_TIMEOUT_S, trust_env=False) as client:
            status: dict[str, Any] = (await client.get(pointer["status_url"])).json()
    except (OSError, ValueError, KeyError, httpx.HTTPError) as error:
        raise NotRunning(f"No node of {home} is running.", hint=hint) from error
    return status | {key: pointer[key] for key in ("api_url",) if key in pointer}
