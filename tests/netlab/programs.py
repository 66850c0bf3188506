"""Programs inside the laboratory: a real relay, and peers that obey (tests/netlab/peer.py)."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from tests.netlab.node import Host

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 40.0
"""Python, libp2p and a reservation, with every other program starting at the same time."""


class RelayProgram:
    """`piecework-relay` with its default ports, in a public host."""

    def __init__(self, host: Host) -> None:
        self._home = tempfile.TemporaryDirectory()
        self.host = host
        self.process, self.address = self._start()

    def kill(self) -> None:
        """As a power cut."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """With the same key and ports."""
        self.process, self.address = self._start()

    def close(self) -> None:
        self.kill()
        self._home.cleanup()

    def _start(self) -> tuple["subprocess.Popen[str]", str]:
        start = "from relay.cli import main; main()"
        command = [sys.executable, "-c", start, "--home", self._home.name]
        process = self.host.popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        lines: Queue[str] = Queue()
        _pump(process.stdout, lines)
        while True:
            line = _next(lines, "the relay did not start")
            for word in line.split():
                if word.startswith(f"/ip4/{self.host.ip}/tcp/"):
                    return process, word


class PeerProgram:
    """A home host in a node of the laboratory."""

    def __init__(
        self,
        host: Host,
        seed: int,
        relays: list[str],
        log: str = "WARNING",
        listen: str = "0.0.0.0",
    ) -> None:
        arguments = [a for relay in relays for a in ("--relay", relay)]
        self.host = host
        self.process = host.popen(
            [
                sys.executable, "-m", "tests.netlab.peer", "--seed", seed, "--log", log,
                "--listen", listen, *arguments,
            ],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._lines: Queue[str] = Queue()
        _pump(self.process.stdout, self._lines)
        self.where: dict[str, Any] | None = None

    def wait_started(self) -> dict[str, Any]:
        if self.where is None:
            self.where = json.loads(_next(self._lines, "a peer did not start"))
        return self.where

    @property
    def peer_id(self) -> str:
        return str(self.wait_started()["peer"])

    def tell(self, do: str, **arguments: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()

    def hear(self, timeout_s: float = START_TIMEOUT_S) -> dict[str, Any]:
        return json.loads(_next(self._lines, "a peer did not answer", timeout_s))

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        self.tell(do, **arguments)
        return self.hear()

    def addresses(self) -> list[str]:
        """As they are now."""
        return list(self.ask("where")["addresses"])


def _pump(source: Any, lines: "Queue[str]") -> None:
    """Read a pipe in a thread of its own, so that waiting for it can end."""

    def run() -> None:
        for line in source:
            lines.put(line)

    threading.Thread(target=run, daemon=True).start()


def _next(lines: "Queue[str]", complaint: str, timeout_s: float = START_TIMEOUT_S) -> str:
    try:
        return lines.get(timeout=timeout_s)
    except Empty:
        raise AssertionError(f"{complaint} within {timeout_s:g} s") from None
