"""What the lines themselves add: datagrams to and fro, with and without them between.

An echo of our own answers at one home while the lines run; both ends are plain blocking sockets.
"""

import asyncio
import json
import socket
import subprocess
import sys
import time
from typing import Final

from benchmarks.wan.figures import Figures, quantile
from benchmarks.wan.namespace import PORT, front_of, home_of

__all__ = ["measure_lines"]

PAUSE_S: Final = 0.01
PROBES: Final = 150
BYTES: Final = 1200
TIMEOUT_S: Final = 2.0
DELAY_MS: Final = 30.0


def answer() -> None:
    """The echo's process."""
    with _socket(1) as opened:
        print("ready", flush=True)
        while True:
            data, source = opened.recvfrom(9216)
            opened.sendto(data, source)


async def measure_lines(figures: Figures) -> None:
    """Rows of what a line adds, one way."""
    await asyncio.to_thread(_measure, figures)


def _measure(figures: Figures) -> None:
    lines, echo = _start("benchmarks.wan.lines", "2"), _start("benchmarks.wan.echo")
    try:
        with _socket(0) as asking:
            direct = _one_way_ms(asking, home_of(1))
            through = _one_way_ms(asking, front_of(1))
            _order(lines, {"conditions": {"delay_ms": DELAY_MS}})
            delayed = _one_way_ms(asking, front_of(1))
    finally:
        lines.stdin.close() if lines.stdin else None
        lines.wait()
        echo.kill()
        echo.wait()
    workload = f"{PROBES} datagrams of {BYTES} B, one way"
    shares = (0.1, 0.5, 0.9)
    added = [quantile(through, share) - quantile(direct, 0.5) for share in shares]
    figures.add("what a line of 0 ms adds, p10 p50 p90", workload, added, "ms")
    beyond = [quantile(delayed, share) - DELAY_MS for share in shares]
    figures.add(f"what a line of {DELAY_MS:g} ms takes beyond that", workload, beyond, "ms")


def _one_way_ms(asking: socket.socket, host: str) -> list[float]:
    """Half of each round trip."""
    found = []
    for _ in range(PROBES):
        sent_at = time.monotonic()
        asking.sendto(bytes(BYTES), (host, PORT))
        asking.recvfrom(9216)
        found.append(500 * (time.monotonic() - sent_at))
        time.sleep(PAUSE_S)
    return found


def _start(module: str, *arguments: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    return process


def _order(lines: "subprocess.Popen[str]", command: dict[str, object]) -> None:
    assert lines.stdin is not None
    assert lines.stdout is not None
    print(json.dumps(command), file=lines.stdin, flush=True)
    lines.stdout.readline()


def _socket(peer: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((home_of(peer), PORT))
    opened.settimeout(None if peer else TIMEOUT_S)
    return opened


if __name__ == "__main__":
    answer()
