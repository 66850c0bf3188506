"""`piecework-relay` as it is started: a process of its own, with nothing configured but ports."""

import asyncio
import json
import signal
import subprocess
import sys
import time

import httpx
import pytest

from protocol.identity import KeyPair
from protocol.relay_messages import FORWARD_PROTOCOL, ForwardGrant, ForwardRequest, decode_answer
from tests.relay.test_app import ECHO, TIMEOUT_S, dial, echo, echoes
from transport.address import TcpAddress
from transport.control.host import LibP2pHost
from transport.control.messages import read_message, write_message
from transport.errors import DialFailed

START_S = 20
PROGRAM = (sys.executable, "-c", "from relay.cli import main; main()")


class Program:
    """A started relay; `port` 0 takes any."""

    def __init__(self, home, port=0):
        self.home = home
        any_port = ("--udp-port", "0", "--other-udp-port", "0", "--status-port", "0")
        self.process = subprocess.Popen(
            [*PROGRAM, "--home", str(home), "--host", "127.0.0.1", "--port", str(port), *any_port],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate()[1])
        self.address = TcpAddress.from_text(line.strip())
        pointer = home / "status.json"
        until = time.monotonic() + START_S
        while not pointer.exists() and time.monotonic() < until:
            time.sleep(0.02)
        self.url = json.loads(pointer.read_text())["status_url"]

    def get(self, path):
        return httpx.get(self.url + path, trust_env=False, timeout=5)

    def end(self, number=signal.SIGTERM):
        """The exit code and what it said on stderr."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, said = self.process.communicate(timeout=START_S)
        return self.process.returncode, said


@pytest.fixture
def start(tmp_path):
    programs = []

    def _start(port=0):
        programs.append(Program(tmp_path / "home", port))
        return programs[-1]

    yield _start
    for program in programs:
        program.end(signal.SIGKILL)


@pytest.fixture
async def node():
    hosts = []

    async def make(name):
        hosts.append(await LibP2pHost.start(KeyPair(name.encode().ljust(32, b"."))))
        hosts[-1].set_handler(ECHO, echo)
        return hosts[-1]

    yield make
    await asyncio.gather(*(host.close() for host in hosts))


async def test_started_relay_reserves_carries_grants_and_shows_it(start, node):
    program = start()
    caller, called = await node("caller"), await node("a")
    await called.reserve(program.address, timeout_s=TIMEOUT_S)
    _, stream = await dial(caller, program.address, called)
    assert await echoes(stream, bytes(100_000))
    connection = await caller.connect(program.address, timeout_s=TIMEOUT_S)
    asking = await connection.open_stream(FORWARD_PROTOCOL, timeout_s=TIMEOUT_S)
    await write_message(asking, ForwardRequest(called.peer_id).encode())
    data = await read_message(asking, 4096, timeout_s=TIMEOUT_S)
    grant = decode_answer(ForwardGrant, data)

    status = program.get("/status").json()
    assert status["peer_id"] == str(program.address.peer_id)
    assert status["addresses"] == [str(program.address)]
    used = {fill["limit"]: fill["used"] for fill in status["limits_near"]}
    assert used["circuits.reservations_max"] == 1
    assert used["circuits.circuits_max"] == 1
    assert used["forwarder.circuits_max"] == 1
    assert status["circuits"]["bytes"] >= 200_000
    assert status["udp_ports"] == list(grant.ports)
    metrics = program.get("/metrics").text
    assert 'piecework_relay_used{limit="circuits.reservations_max"} 1.0' in metrics
    assert program.get("/healthz").json() == {"status": "ok"}
    for page in (metrics, program.get("/status").text):
        assert str(caller.peer_id) not in page
        assert str(called.peer_id) not in page

    shown = subprocess.run(
        [*PROGRAM, "status", "--home", str(program.home), "--json"], capture_output=True, check=True
    )
    assert json.loads(shown.stdout)["peer_id"] == str(program.address.peer_id)


async def test_sigterm_drains_and_leaves_no_pointer(start):
    program = start()
    code, said = program.end()
    assert code == 0
    assert "draining" in said
    assert "Traceback" not in said
    assert not (program.home / "status.json").exists()


async def test_killed_relay_comes_back_under_its_key_and_nodes_reserve_again(start, node):
    program = start()
    peer = await node("a")
    before = await peer.reserve(program.address, timeout_s=TIMEOUT_S)
    program.end(signal.SIGKILL)
    async with asyncio.timeout(TIMEOUT_S):
        while peer.connections():
            await asyncio.sleep(0.01)
    with pytest.raises(DialFailed):
        await peer.reserve(program.address, timeout_s=TIMEOUT_S)
    again = start(program.address.port)
    assert again.address == program.address
    assert (await peer.reserve(again.address, timeout_s=TIMEOUT_S)).address == before.address
