"""`piecework up` on three machines of one LAN: no account, no server, not a packet outside."""

import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.flows.test_pool import unsplit_answer
from tests.netlab.lab import Lab
from tests.netlab.requirements import needs_lab

pytestmark = [needs_lab, pytest.mark.slow, pytest.mark.timeout(240)]

QUESTION = "What is a relay?"
TOKENS = 30
API = "http://127.0.0.1:8470/v1/chat/completions"
MEMORY = "15M"
"""Five of the eight layers beside an end: no machine holds the model alone, any two do."""

WAIT_S = 90.0
"""On two cores that three machines share; on a machine each it is the mark of 30 s."""


class House:
    """Three machines on one switch, each running the same command."""

    def __init__(self, lab, directory):
        self.lan = lab.lan("house", hosts=3)
        self.hosts = self.lan.hosts
        self.directory = directory
        self.programs = [self.start(index) for index in range(3)]

    def start(self, index):
        command = [
            Path(sys.executable).parent / "piecework", "up", "--model", "piecework/tiny",
            "--home", self.directory / f"home{index}", "--machine", f"m{index}",
            "--memory", MEMORY, "--compute", "fp32", "--wire", "fp32", "--threads", "1",
            "--kv-tokens", "1024",
        ]  # fmt: skip
        with (self.directory / f"m{index}.log").open("ab") as log:
            return self.hosts[index].popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def ask(self, index):
        """The answer's text, or None while that machine has none to give."""
        body = {
            "model": "piecework/tiny", "temperature": 0, "max_tokens": TOKENS,
            "messages": [{"role": "user", "content": QUESTION}],
        }  # fmt: skip
        try:
            with self.hosts[index].enter():
                answer = httpx.post(API, json=body, timeout=30, trust_env=False)
        except httpx.HTTPError:
            return None
        if answer.status_code != 200:
            return None
        return answer.json()["choices"][0]["message"]["content"]

    def wait_answer(self, index):
        """The first answer of that machine, and after how many seconds it came."""
        began = time.monotonic()
        while (text := self.ask(index)) is None:
            assert time.monotonic() - began < WAIT_S, self.logs()
            time.sleep(0.3)
        return text, time.monotonic() - began

    def logs(self):
        return "\n".join(path.read_text() for path in sorted(self.directory.glob("*.log")))


def test_three_machines_find_each_other_and_any_answers(tmp_path):
    expected = unsplit_answer(QUESTION, TOKENS)
    with Lab() as lab:
        house = House(lab, tmp_path)
        for index in range(3):
            text, seconds = house.wait_answer(index)
            print(f"machine {index} answered after {seconds:.1f} s")
            assert text == expected
        assert lab.outside_packets() == []

        house.programs[1].kill()
        house.programs[1].wait()
        for index in (0, 2):
            deadline = time.monotonic() + WAIT_S
            while (text := house.ask(index)) != expected:
                assert time.monotonic() < deadline, (text, house.logs())
                time.sleep(0.5)
        assert lab.outside_packets() == []
