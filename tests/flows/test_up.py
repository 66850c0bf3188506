"""`piecework up` by the command a person types: three machines, one model, no master."""

import asyncio
import json
import os
import signal
import socket

import httpx
import pytest

from node.cli.demo.processes import Children
from node.cli.status import NotRunning, read_status
from tests.flows.test_pool import unsplit_answer

QUESTION = "What is a relay?"
MODEL = "piecework/tiny"
KEY = "three of a house"
COMMON = (
    *("--model", MODEL, "--listen", "127.0.0.1", "--no-mdns", "--offline", "--api-port", "0"),
    *("--compute", "fp32", "--wire", "fp32", "--threads", "1", "--kv-tokens", "1024"),
)
MEMORY = "15M"
"""Five of the eight layers beside an end: no machine holds the model alone, any two do."""


def free_udp_ports(count):
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Machines:
    """Running machines by name, each with a home of its own."""

    def __init__(self, directory, children):
        self.directory = directory
        self.children = children
        self.port, *_ = free_udp_ports(1)

    async def start(self, name, *options, key=KEY):
        """The first listens where the others look for it; they are introduced to one another."""
        known = ("--port", str(self.port)) if name == "a" else ("--peer", f"127.0.0.1:{self.port}")
        await self.children.start(
            name, "piecework", "up", "--home", str(self.directory / name), "--machine", name,
            "--key", key, "--memory", MEMORY, *COMMON, *known, *options,
        )  # fmt: skip

    async def status(self, name):
        try:
            return await read_status(self.directory / name)
        except NotRunning:
            return None

    def log(self, name):
        return (self.directory / f"{name}.log").read_text()

    async def wait(self, name, condition, *, timeout_s=60.0):
        """Until the machine's own view of the cluster satisfies `condition`; the view."""
        try:
            async with asyncio.timeout(timeout_s):
                while not ((status := await self.status(name)) and condition(status)):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            pytest.fail(f"{name} saw {status}; its log: {self.log(name)}")
        return status

    def pid(self, name):
        return json.loads((self.directory / name / "status.json").read_text())["pid"]

    async def expect(self, name, text, spans):
        """One machine's answer is that of the unsplit model, from hops with these spans."""
        answer = await self.ask(name)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"] == text
        assert {hop["span"] for hop in answer.json()["piecework"]["hops"]} == spans

    async def ask(self, name):
        status = await self.status(name)
        body = {
            "model": MODEL, "messages": [{"role": "user", "content": QUESTION}],
            "temperature": 0, "max_tokens": 40,
        }  # fmt: skip
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            return await client.post(f"{status['api_url']}/chat/completions", json=body)


def is_whole(machines):
    """Everybody of that many is there, and each layer is served."""
    return lambda status: (
        status["is_ready"]
        and len(status["machines"]) == machines
        and all(machine["span"] == machine["planned"] for machine in status["machines"])
    )


@pytest.fixture
async def machines(tmp_path):
    children = Children(tmp_path, lambda _: None)
    yield Machines(tmp_path, children)
    codes = await children.stop()
    assert set(codes.values()) <= {0, -signal.SIGKILL}, codes


async def test_three_machines_answer_as_one_and_go_on_when_one_is_killed(machines):
    for name in "abc":
        await machines.start(name)
    await machines.start("stranger", key="another key")
    expected = await asyncio.to_thread(unsplit_answer, QUESTION, 40)
    status = await machines.wait("a", is_whole(3))
    spans = {machine["name"]: machine["span"] for machine in status["machines"]}
    idle = next(name for name, span in spans.items() if span is None)
    killed, kept = sorted(set(spans) - {idle})
    for name in "abc":
        await machines.wait(name, is_whole(3))
        await machines.expect(name, expected, {spans[killed], spans[kept]})

    view = await machines.wait("stranger", lambda status: True)
    assert [machine["name"] for machine in view["machines"]] == ["stranger"]
    assert "its name or its key differs" in machines.log("stranger")

    os.kill(machines.pid(killed), signal.SIGKILL)
    for name in (idle, kept):
        status = await machines.wait(name, is_whole(2))
        after = {machine["name"]: machine["span"] for machine in status["machines"]}
        assert after == {idle: spans[killed], kept: spans[kept]}, "who stayed has not moved"
        await machines.expect(name, expected, set(after.values()))
