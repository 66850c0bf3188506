"""Which router leads out of here."""

import asyncio
import platform
import socket
import struct
from pathlib import Path
from typing import Final

__all__ = ["default_gateway"]

_ROUTES: Final = Path("/proc/net/route")
_UP_GATEWAY: Final = 0x3
_COMMAND_TIMEOUT_S: Final = 2.0


async def default_gateway() -> str | None:
    """The IPv4 default router, or None where there is none or the system does not tell."""
    system = platform.system()
    if system == "Linux":
        return from_proc(_ROUTES.read_text()) if _ROUTES.exists() else None
    if system == "Darwin":
        return from_route(await _output("route", "-n", "get", "default"))
    return None


def from_proc(table: str) -> str | None:
    """The gateway in Linux's table with the least metric (proc(5), /proc/net/route)."""
    found: list[tuple[int, str]] = []
    for line in table.splitlines()[1:]:
        columns = line.split()
        if len(columns) < 8 or columns[1] != "00000000":
            continue
        if int(columns[3], 16) & _UP_GATEWAY == _UP_GATEWAY:
            packed = struct.pack("<I", int(columns[2], 16))
            found.append((int(columns[6]), socket.inet_ntoa(packed)))
    return min(found)[1] if found else None


def from_route(output: str) -> str | None:
    """The line `gateway: ADDRESS` of macOS's route(8)."""
    for line in output.splitlines():
        name, _, value = line.strip().partition(":")
        if name == "gateway":
            return value.strip()
    return None


async def _output(*command: str) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        output, _ = await asyncio.wait_for(process.communicate(), _COMMAND_TIMEOUT_S)
    except (OSError, TimeoutError):
        return ""
    return output.decode(errors="replace")
