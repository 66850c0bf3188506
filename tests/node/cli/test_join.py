"""What `piecework join` asks before it serves, as a person meets it at a terminal."""

import os
import pty
import re
import signal
import subprocess

import pytest

from tests.node.cli.test_account import PIECEWORK, market

__all__ = ["market"]  # a fixture: one marketplace serves the whole file


@pytest.fixture
def command(tmp_path):
    return [*PIECEWORK, "join", "--home", str(tmp_path / "home"), "--model", "nowhere"]


def test_a_country_that_is_none_is_refused_before_anything_is_asked(command):
    nobody = ["--market", "http://127.0.0.1:1", "--country", "UK"]
    done = subprocess.run([*command, *nobody], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--country cannot be 'UK'" in done.stderr
    assert "the United Kingdom is GB" in done.stderr


class Terminal:
    """A program whose every stream is a terminal, with what it has said so far."""

    def __init__(self, command, **environment) -> None:
        ours, theirs = pty.openpty()
        self._ours = ours
        self.said = ""
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | environment
        )
        os.close(theirs)

    def read_until(self, pattern: str) -> str:
        """What `pattern` found; fails where the program ends before it says so."""
        while not (found := re.search(pattern, self.said)):
            data = os.read(self._ours, 4096)
            assert data, self.said
            self.said += data.decode()
        return found.group()

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)
        os.close(self._ours)


def test_at_a_terminal_it_asks_and_suggests_what_the_locale_says(command, market):
    terminal = Terminal([*command, "--market", market], LC_ALL="de_AT.UTF-8", COLUMNS="200")
    terminal.read_until(r"two letters \[AT\]: ")
    terminal.type("ch\n")
    terminal.read_until(re.escape(f"{market}/device#") + r"[B-Z]{4}-[B-Z]{4}&country=CH")
    terminal.end()


def test_with_the_option_it_asks_nothing(command, market):
    terminal = Terminal([*command, "--market", market, "--country", "jp"], COLUMNS="200")
    terminal.read_until(r"&country=JP")
    assert "two letters" not in terminal.said
    terminal.end()
