"""A js-libp2p peer in a process of its own, where Node and its packages are installed.

`make interop` installs them beside peer.mjs; without them the tests that need one are skipped.
"""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent / "js"
ANSWER_TIMEOUT_S = 20.0


def why_missing() -> str:
    """Empty, or why no js peer can be started."""
    if shutil.which("node") is None:
        return "Node is not installed"
    if not (DIRECTORY / "node_modules" / "libp2p").is_dir():
        return "js-libp2p is not installed: run 'make interop'"
    return ""


class JsPeer:
    """Started by `start`; `address` is its QUIC multiaddr."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self.address = address
        self._process = process

    @classmethod
    async def start(cls) -> "JsPeer":
        process = await asyncio.create_subprocess_exec(
            "node", "peer.mjs", cwd=DIRECTORY,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        return cls(process, (await _answer(process))["address"])

    async def ask(self, command: str, address: str) -> Any:
        """`ping` or `identify` towards `address`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command} {address}\n".encode())
        return await _answer(self._process)

    async def close(self) -> None:
        self._process.kill()
        await self._process.communicate()


async def _answer(process: asyncio.subprocess.Process) -> Any:
    assert process.stdout is not None
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        return json.loads(await process.stdout.readline())
