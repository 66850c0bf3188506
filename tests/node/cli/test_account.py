"""`piecework login`, `whoami` and `logout` as a person runs them, with a marketplace of its own."""

import json
import re
import signal
import subprocess
import sys

import httpx
import pytest

MARKET = [sys.executable, "-c", "from marketplace.cli import main; main()"]
PIECEWORK = [sys.executable, "-c", "from node.cli.main import main; main()"]


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """The address of a marketplace in a process of its own."""
    home = tmp_path_factory.mktemp("market")
    process = subprocess.Popen(
        [*MARKET, "--home", str(home), "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    said = ""
    while "Application startup complete" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    yield re.search(r"http://127\.0\.0\.1:\d+", said).group()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)


@pytest.fixture
def run(tmp_path, market):
    def run(*arguments) -> subprocess.CompletedProcess:
        command = [*PIECEWORK, *arguments, "--market", market, "--home", str(tmp_path / "home")]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    return run


@pytest.fixture
def buyer(market):
    return httpx.post(f"{market}/v1/accounts", json={"name": "somebody"}).json()


def test_a_code_that_is_approved_leaves_a_key(run, market, buyer, tmp_path):
    home = tmp_path / "home"
    command = [*PIECEWORK, "login", "--market", market, "--home", str(home)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={"COLUMNS": "100"}
    )
    said = ""
    while not (found := re.search(r"[B-Z]{4}-[B-Z]{4}", said)):
        line = process.stderr.readline()
        assert line, said
        said += line
    assert f"{market}/device" in said
    approved = httpx.post(
        f"{market}/v1/device/approve",
        json={"user_code": found.group()},
        headers={"authorization": f"Bearer {buyer['api_key']}"},
    )
    assert approved.status_code == 200
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert stdout == ""
    assert (home / "accounts.json").stat().st_mode & 0o777 == 0o600

    report = json.loads(run("whoami", "--json").stdout)
    assert report["account_id"] == buyer["account_id"]
    assert report["balance"]["available_nanos"] == 0

    assert run("logout").returncode == 0
    revoked = httpx.get(
        f"{market}/v1/keys", headers={"authorization": f"Bearer {buyer['api_key']}"}
    ).json()["data"]
    assert next(k for k in revoked if k["key_id"] == report["key_id"])["revoked_at_s"]
    assert "Nobody is signed in" in run("whoami").stderr


def test_a_key_that_is_given_is_tried_before_it_is_kept(run, buyer):
    refused = run("login", "--key", buyer["api_key"][:-4] + "AAAA")
    assert refused.returncode == 77
    assert run("whoami").returncode == 2
    assert run("login", "--key", buyer["api_key"]).returncode == 0
    assert "somebody" in run("whoami").stdout
