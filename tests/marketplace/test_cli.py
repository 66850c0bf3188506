"""`piecework-market` as an operator starts it."""

import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys

import httpx
import pytest

from marketplace.cli import main
from tests.marketplace.world import World

PROCESS = [sys.executable, "-c", "from marketplace.cli import main; main()"]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command to its end in this process; gives (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["piecework-market", *arguments])
        with pytest.raises(SystemExit) as done:
            main()
        captured = capsys.readouterr()
        return done.value.code, captured.out, captured.err

    return run


@pytest.fixture
async def closed_market(home):
    """The home of a marketplace that has had one customer and was stopped."""
    async with World(home) as world:
        await world.buyer(dollars=3)
    return home


class TestServe:
    def test_it_serves_with_no_config_until_it_is_stopped(self, home):
        process = subprocess.Popen(
            [*PROCESS, "--home", str(home), "--port", "0"],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            said = ""
            while "Application startup complete" not in said:
                line = process.stderr.readline()
                assert line, said
                said += line
            url = re.search(r"http://127\.0\.0\.1:\d+", said).group()
            market = httpx.get(f"{url}/v1/market").json()
            assert f"PeerId {market['peer_id']}" in said
            assert "test processor" in said
        finally:
            process.send_signal(signal.SIGTERM)
            stdout, _ = process.communicate(timeout=30)
        assert stdout == ""

    @pytest.mark.parametrize("command", [[], ["serve"]])
    def test_a_port_that_is_taken_is_said_in_words(self, home, run, command):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            code, _, said = run(*command, "--home", str(home), "--port", str(port))
        assert code == 1
        assert f"Cannot listen on 127.0.0.1:{port}" in said

    def test_a_wrong_setting_is_said_in_words(self, home, run, monkeypatch):
        monkeypatch.setenv("PIECEWORK_MARKET_CREDIT_WINDOWS", "many")
        code, _, said = run("--home", str(home))
        assert code == 1
        assert "credit_windows" in said


class TestCheck:
    async def test_books_in_order(self, closed_market, run):
        code, told, _ = run("check", "--home", str(closed_market))
        assert (code, told) == (0, "The books are in order.\n")
        code, told, _ = run("check", "--home", str(closed_market), "--json")
        assert json.loads(told) == {"ok": True, "violations": []}

    async def test_a_balance_that_was_touched_is_found(self, closed_market, run):
        database = sqlite3.connect(closed_market / "marketplace.sqlite")
        database.execute(
            "UPDATE ledger_account SET credits_posted = credits_posted + 1"
            " WHERE code = 'buyer_cash'"
        )
        database.commit()
        database.close()
        code, told, _ = run("check", "--home", str(closed_market), "--json")
        assert (code, json.loads(told)["ok"]) == (1, False)
        code, told, _ = run("check", "--home", str(closed_market))
        assert code == 1
        assert told
        assert "in order" not in told

    def test_no_marketplace_is_said_in_words(self, home, run):
        code, _, said = run("check", "--home", str(home))
        assert code == 1
        assert "There is no marketplace" in said


def test_help_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from marketplace.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'fastapi', 'sqlalchemy', 'sqlmodel', 'pydantic', 'uvicorn', 'httpx'}\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "settlement-window-s" in done.stdout
