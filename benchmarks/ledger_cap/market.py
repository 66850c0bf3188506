"""Real marketplace processes over one database, and how long they took to hold money."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import httpx

from benchmarks.ledger_cap.server import TIMES
from tests.postgres import Server

__all__ = ["Market"]

START_TIMEOUT_S = 120.0


class Market:
    """`count` processes over one database; the first does the jobs."""

    def __init__(self, engine: str, count: int) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="cap"))
        self._server = None
        url = ""
        if engine == "postgresql":
            self._server = Server(Path(tempfile.mkdtemp(prefix="pg", dir="/tmp")))
            self._server.start()
            url = self._server.url
        self.database_url = url or f"sqlite:///{self._home / 'marketplace.sqlite'}"
        self._env = os.environ | {
            "PIECEWORK_MARKET_HOME": str(self._home),
            "PIECEWORK_MARKET_DATABASE_URL": url,
            "PIECEWORK_MARKET_SETTLEMENT_WINDOW_S": "1",
            TIMES: str(self._home / "times"),
        }
        self._processes: list[subprocess.Popen[str]] = []
        self.urls = [self._start(has_jobs=index == 0) for index in range(count)]

    def _start(self, *, has_jobs: bool) -> str:
        server = "benchmarks.ledger_cap.server"
        command = [sys.executable, "-m", server, "serve", "--port", "0"]
        log = self._home / f"log{len(self._processes)}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command + ([] if has_jobs else ["--no-jobs"]), env=self._env, stderr=output
            )
        self._processes.append(process)
        until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until:
            if found := re.search(r"at (http://\S+)", log.read_text()):
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"{found[1]}/healthz").status_code == 200:
                        return found[1]
            time.sleep(0.1)
        raise RuntimeError(f"the marketplace does not start: {log.read_text()[-2000:]}")

    def hold_times_s(self) -> dict[str, list[float]]:
        """By kind, ascending, of all processes since the last call (see `server.py`)."""
        path = self._home / "times"
        times = defaultdict(list)
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            times[entry["kind"]].append(entry["seconds"])
        os.truncate(path, 0)  # each process appends
        return {kind: sorted(seconds) for kind, seconds in times.items()}

    def close(self) -> None:
        for number, process in enumerate(self._processes):
            if process.poll() is not None:  # it should not have ended by itself
                log = (self._home / f"log{number}").read_text()
                print(f"process {number} ended with {process.returncode}: {log[-3000:]}")
            process.terminate()
        for process in self._processes:
            process.wait(30)
        if self._server is not None:
            self._server.remove()
        shutil.rmtree(self._home)
