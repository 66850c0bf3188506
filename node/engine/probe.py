"""Does a backend import here, on which device, how fast? `python -m node.engine.probe BACKEND`.

A program of its own: importing a backend takes seconds and hundreds of megabytes, and a broken one
may take its process with it. It writes one JSON object to stdout.
"""

import asyncio
import contextlib
import importlib
import json
import sys
from dataclasses import dataclass
from typing import Any, Final

from node.engine.errors import BackendMissing

__all__ = ["EngineProbe", "probe_engine"]

SIZE: Final = 1024
"""Of the matrices: large enough for every device's best, 4 MB each in fp32."""

DURATION_S: Final = 0.3
"""A dozen products on a slow laptop."""

PROBE_TIMEOUT_S: Final = 60.0
"""Importing torch from a cold disk takes half of it."""

_REASON_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class EngineProbe:
    """What a backend said of itself."""

    name: str
    device: str
    dtype: str
    gflop_per_s: float


async def probe_engine(backend: str) -> EngineProbe:
    """Ask a child process. Raises BackendMissing, with the reason, when it does not work here."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, backend,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            output, errors = await child.communicate()
    except TimeoutError:
        raise BackendMissing(f"{backend} did not start within {PROBE_TIMEOUT_S:g} s.") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
    if child.returncode:
        lines = errors.decode(errors="replace").strip().splitlines()
        reason = lines[-1][:_REASON_MAX] if lines else f"it ended with status {child.returncode}"
        raise BackendMissing(f"{backend} does not run here: {reason}")
    said: dict[str, Any] = json.loads(output)
    return EngineProbe(**said)


def main(backend: str) -> None:
    """The child. Only the two real backends have a probe."""
    module = importlib.import_module(f"node.engine.{backend}_backend.probe")
    sys.stdout.write(json.dumps(module.probe(SIZE, DURATION_S)))


if __name__ == "__main__":
    main(sys.argv[1])
