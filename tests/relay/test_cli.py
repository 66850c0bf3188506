import asyncio
import json
import sys

import pytest

from relay import cli
from relay.app import start_relay
from relay.serving import serve_page
from relay.status import create_status_app
from tests.relay.test_app import config_of


@pytest.fixture
def run(monkeypatch):
    def _run(*arguments):
        """The exit code."""
        monkeypatch.setattr(sys, "argv", ["piecework-relay", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code or 0

    return _run


def test_status_of_no_relay_says_what_to_do(run, tmp_path, capsys):
    assert run("status", "--home", tmp_path) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "No relay of" in err
    assert "--url" in err


@pytest.mark.parametrize("pointer", ["", "[]", "{}", '{"status_url": "http://127.0.0.1:1"}'])
def test_status_of_a_relay_that_died_says_so(run, tmp_path, capsys, pointer):
    (tmp_path / "status.json").write_text(pointer)
    assert run("status", "--home", tmp_path) == 1
    assert capsys.readouterr().err.startswith("error: No relay ")


def test_key_that_others_may_read_is_refused(run, tmp_path, capsys):
    (tmp_path / "relay.key").write_bytes(bytes(32))
    (tmp_path / "relay.key").chmod(0o644)
    assert run("--home", tmp_path) == 1
    assert "chmod 600" in capsys.readouterr().err


def test_setting_that_cannot_be_is_named(run, tmp_path, capsys):
    assert run("--home", tmp_path, "--host", "relay.example.org") == 1
    assert "'host'" in capsys.readouterr().err


def test_help_names_every_option_and_version_is_shown(run, capsys):
    assert run("--help") == 0
    assert "--announce-host" in capsys.readouterr().out
    assert run("--version") == 0
    assert capsys.readouterr().out.strip()


async def test_status_shows_how_near_the_limits_are(tmp_path, capsys):
    async with start_relay(config_of(tmp_path)) as relay:
        page = create_status_app(lambda: relay.identity, relay.config.resources, relay.counts)
        relay.gate.refusals.counts["circuits.reservations_max"] = 3
        async with serve_page(page, "127.0.0.1", 0) as url:
            report = await asyncio.to_thread(cli._read_status, url)
            cli._print(report)
            shown = capsys.readouterr().out
            assert str(relay.control.addresses[0]) in shown.replace("\n", "")
            assert "circuits.reservations_max" in shown
            assert json.loads(json.dumps(report)) == report
