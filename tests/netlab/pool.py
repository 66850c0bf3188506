"""A paid pool in the laboratory: marketplace and relay in public, every other node at home."""

import contextlib
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.netlab.lab import Lab
from tests.netlab.nat import NatKind
from tests.netlab.node import Host
from tests.netlab.programs import RelayProgram
from tests.netlab.router import Router

__all__ = ["LabPool"]

START_TIMEOUT_S = 120.0
"""Six Python programs, four of which import torch, on two cores."""

MARKET_PORT, API_PORT = 8471, 8470
DELAY_MS = 10.0
SPANS = ("0:3", "3:6", "6:8")


class LabPool:
    """Three providers behind the given NATs, and a gateway at home as well."""

    def __init__(self, lab: Lab, directory: Path, nats: tuple[NatKind, ...]) -> None:
        self._directory = directory
        self.relay = RelayProgram(lab.public("relay", delay_ms=DELAY_MS))
        self.market = lab.public("market", delay_ms=DELAY_MS)
        self.homes: list[Router] = []
        self.hosts: list[Host] = []
        url = f"http://{self.market.ip}:{MARKET_PORT}"
        self._start(
            self.market, "market", "piecework-market", "--host", "0.0.0.0",
            "--settlement-window-s", "1", "--relay", self.relay.address,
        )  # fmt: skip
        self._wait("the marketplace", lambda: self._get(self.market, f"{url}/healthz"))
        common = ("--market", url, "--compute", "fp32", "--threads", "1")
        for index, (nat, span) in enumerate(zip(nats, SPANS, strict=True)):
            home = lab.home(f"home{index}", nat=nat, delay_ms=DELAY_MS)
            self.homes.append(home)
            self.hosts.append(home.host(f"host{index}"))
            self._start(
                self.hosts[index], f"provider{index}", "piecework", "join", *common,
                "--span", span, "--no-map-port", "--kv-tokens", "2048",
            )  # fmt: skip
        self.gateway = lab.home("home", nat=NatKind.PORT_RESTRICTED, delay_ms=DELAY_MS).host("gate")
        self._start(self.gateway, "gateway", "piecework", "gateway", *common, "--wire", "fp32")
        self._wait("the gateway", lambda: (directory / "gateway" / "status.json").exists())
        for index in range(len(nats)):
            path = directory / f"provider{index}" / "status.json"
            self._wait(f"provider {index}", path.exists)
        self.key = self._make_buyer(url)

    def ask(
        self, question: str, max_tokens: int, on_token: Callable[[int], None] = lambda count: None
    ) -> tuple[str, dict[str, Any]]:
        """The streamed answer's text, and the last chunk's facts about it."""
        body = {
            "model": "piecework/tiny", "temperature": 0, "max_tokens": max_tokens, "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": question}],
        }  # fmt: skip
        text, last, count = "", {}, 0
        for chunk in self._stream(body):
            if "error" in chunk:
                raise AssertionError(f"{chunk['error']} after {count} pieces; {self.logs()}")
            last = chunk
            for choice in chunk.get("choices", ()):
                if piece := choice["delta"].get("content"):
                    text += piece
                    count += 1
                    on_token(count)
        return text, last

    def paths(self) -> list[list[str]]:
        """Of each provider, the kinds of the paths of its connections now."""
        found = []
        for index in range(len(self.homes)):
            status = self._status(f"provider{index}")
            found.append(sorted(c["path_kind"] for c in status.get("connections", ())))
        return found

    def logs(self) -> str:
        """The end of what every program said, for a failure's message."""
        ends = [
            f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:])
            for path in sorted(self._directory.glob("*.log"))
        ]
        return "\n".join(ends)

    def close(self) -> None:
        self.relay.close()

    def _stream(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        headers = {"authorization": f"Bearer {self.key}"}
        url = f"http://127.0.0.1:{API_PORT}/v1/chat/completions"
        with self.gateway.enter():
            client = httpx.Client(timeout=60.0)
            request = client.build_request("POST", url, json=body, headers=headers)
            answer = client.send(request, stream=True)
        with contextlib.closing(client), contextlib.closing(answer):
            assert answer.status_code == 200, (answer.read(), self.logs())
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line.removeprefix("data: "))

    def _start(self, host: Host, name: str, program: str, *arguments: str) -> None:
        executable = Path(sys.executable).parent / program
        home = self._directory / name
        with (self._directory / f"{name}.log").open("wb") as log:
            host.popen(
                [executable, *arguments, "--home", home],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def _wait(self, what: str, condition: Callable[[], object]) -> None:
        until = time.monotonic() + START_TIMEOUT_S
        while not condition():
            if time.monotonic() > until:
                raise AssertionError(f"{what} did not start; {self.logs()}")
            time.sleep(0.2)

    def _get(self, host: Host, url: str) -> bool:
        try:
            with host.enter():
                return httpx.get(url, timeout=2.0).status_code == 200
        except httpx.HTTPError:
            return False

    def _status(self, name: str) -> dict[str, Any]:
        """Asked as `piecework status` asks, from within the program's own network."""
        pointer = json.loads((self._directory / name / "status.json").read_text())
        with self.hosts[int(name.removeprefix("provider"))].enter():
            answer = httpx.get(pointer["status_url"], timeout=5.0)
        return dict(answer.json())

    def _make_buyer(self, url: str) -> str:
        with self.market.enter(), httpx.Client(base_url=url, timeout=10.0) as client:
            key = str(client.post("/v1/accounts", json={"name": "buyer"}).json()["api_key"])
            client.headers["authorization"] = f"Bearer {key}"
            topup = {"topup_id": secrets.token_hex(16), "amount_nanos": 5 * 10**9}
            client.post("/v1/topups", json=topup).raise_for_status()
            done = client.post(f"/v1/test-processor/checkouts/{topup['topup_id']}/complete")
            done.raise_for_status()
        return key
