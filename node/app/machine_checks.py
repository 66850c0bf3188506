"""What `doctor` looks at in the machine itself: disk, memory, ports, engines."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil

from node.app.running import NotRunning, read_status
from node.engine.backends import available_backends
from node.engine.errors import BackendMissing
from node.engine.probe import EngineProbe, probe_engine
from node.hardware import available_memory_bytes
from transport.diagnosis.finding import Finding, Level

__all__ = ["check_disk", "check_engines", "check_memory", "check_ports", "engine_findings"]

_GIB: Final = 2**30

DISK_BYTES_MIN: Final = _GIB
"""Below, a node may be unable to write its own receipts while a model comes in."""

DISK_BYTES_GOOD: Final = 10 * _GIB
"""A span of a middle-sized model: 32 layers of 8B in bf16 are 16 GB, and a half of them do."""

MEMORY_BYTES_MIN: Final = _GIB // 2
"""One layer of an 8B model in bf16 is 0.4 GB."""

MEMORY_BYTES_GOOD: Final = 2 * _GIB

GFLOP_PER_S_GOOD: Final = 10.0
"""A token through one layer of 8B is 0.44 GFLOP: below, a prompt takes minutes."""

PORT_TIMEOUT_S: Final = 2.0


async def check_disk(home: Path) -> list[Finding]:
    """Where a node writes, and where its models lie: one finding a file system."""
    places = {_device(path): path for path in (home / "models", home)}
    return [_disk(path) for path in reversed(places.values())]


def _disk(path: Path) -> Finding:
    existing = _existing(path)
    free = psutil.disk_usage(str(existing)).free
    text = f"{free / _GIB:,.1f} GiB free at {existing}"
    if not os.access(existing, os.W_OK):
        fix = f"Give yourself the directory, or choose another with --home: {path}"
        return Finding("disk", Level.FAIL, f"Nothing can be written at {existing}.", fix)
    if free < DISK_BYTES_MIN:
        return Finding("disk", Level.FAIL, f"Only {text}.", "Make room, or choose another --home.")
    if free < DISK_BYTES_GOOD:
        fix = "Make room, or remove models that you do not need: piecework models rm."
        return Finding("disk", Level.WARN, f"{text}: enough for small models only.", fix)
    return Finding("disk", Level.OK, f"{text}.")


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that is there: nothing is made by looking."""
    path = path.absolute()
    return next((place for place in (path, *path.parents) if place.exists()), Path("/"))


def _device(path: Path) -> int:
    return _existing(path).stat().st_dev


async def check_memory() -> list[Finding]:
    memory, usable = psutil.virtual_memory(), available_memory_bytes()
    text = (
        f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free;"
        f" a node would take {usable / _GIB:.1f} GiB"
    )
    fix = "Close other programs, or give a smaller share with --memory."
    if usable < MEMORY_BYTES_MIN:
        return [Finding("memory", Level.FAIL, f"{text}, too little for a layer.", fix)]
    if usable < MEMORY_BYTES_GOOD:
        return [Finding("memory", Level.WARN, f"{text}: a few layers.", fix)]
    return [Finding("memory", Level.OK, f"{text}.")]


async def check_ports(home: Path, api_port: int, listen_port: int) -> list[Finding]:
    """The API's port (TCP, loopback) and the data socket's (UDP; 0 is any)."""
    is_running = await _is_running(home)
    findings = []
    for name, port, is_free in (
        ("API port", api_port, await _is_tcp_free(api_port)),
        ("data port", listen_port, await _is_udp_free(listen_port)),
    ):
        shown = f"{name} {port}" if port else name
        if is_free:
            text = f"The {shown} is free." if port else "A data port can be had."
            findings.append(Finding("ports", Level.OK, text))
        elif is_running:
            findings.append(Finding("ports", Level.OK, f"The {shown} is used by this home's node."))
        else:
            text = f"The {shown} is used by another program."
            fix = "End that program, or give the node another port."
            findings.append(Finding("ports", Level.WARN, text, fix))
    return findings


async def _is_running(home: Path) -> bool:
    try:
        return bool(await read_status(home))
    except NotRunning:
        return False


async def _is_tcp_free(port: int) -> bool:
    try:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
    except OSError:
        return False
    server.close()
    await asyncio.wait_for(server.wait_closed(), PORT_TIMEOUT_S)
    return True


async def _is_udp_free(port: int) -> bool:
    loop = asyncio.get_running_loop()
    try:
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("0.0.0.0", port)
        )
    except OSError:
        return False
    transport.close()
    return True


async def check_engines() -> list[Finding]:
    """Each installed backend computes in a process of its own, one after another."""
    backends = [name for name in available_backends() if name != "fake"]
    if not backends:
        fix = "Install one with: pip install 'piecework[torch]' (or 'piecework[mlx]' on a Mac)."
        return [Finding("engine", Level.FAIL, "No engine is installed.", fix)]
    probes: list[EngineProbe | BackendMissing] = []
    for backend in backends:
        try:
            probes.append(await probe_engine(backend))
        except BackendMissing as error:
            probes.append(error)
    return engine_findings(probes)


def engine_findings(probes: Sequence[EngineProbe | BackendMissing]) -> list[Finding]:
    """One a backend. One that is slow, or broken, matters less where another is not."""
    working = [probe for probe in probes if isinstance(probe, EngineProbe)]
    is_any_fast = any(probe.gflop_per_s >= GFLOP_PER_S_GOOD for probe in working)
    findings = []
    for probe in probes:
        if isinstance(probe, BackendMissing):
            level = Level.WARN if working else Level.FAIL
            fix = "Install it anew, or remove it: pip uninstall its package."
            findings.append(Finding("engine", level, probe.message, fix))
            continue
        text = (
            f"{probe.name} on {probe.device}: {probe.gflop_per_s:,.0f} GFLOP/s"
            f" ({probe.dtype} matrix product)."
        )
        if is_any_fast:
            findings.append(Finding("engine", Level.OK, text))
        else:
            fix = "Close what keeps the processor busy; long prompts will take minutes here."
            findings.append(Finding("engine", Level.WARN, f"Slow: {text}", fix))
    return findings
