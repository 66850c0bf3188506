"""`piecework up`: options that are refused, the table, the lines for machines."""

import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from node.cli.machines import cluster_panel
from node.cli.main import app
from node.cli.up import _JsonLines


def machine(name, **fields):
    return {
        "name": name, "peer_id": f"12D3KooW{name}", "is_self": False, "path_kind": "lan",
        "state": "serving", "done_percent": 0, "model": "org/name", "has_same_model": True,
        "planned": "0:4", "span": "0:4", "backend": "torch", "memory_bytes": 2**33,
        "layers_max": 4, "rows_per_s": 0, "token_layers_per_s": 0, "api_port": 0, "version": "1",
    } | fields  # fmt: skip


def view(*machines, **fields):
    return {
        "role": "cluster", "peer_id": "12D3KooWself", "cluster": "home", "model": "org/name",
        "layers": 8, "room": 8, "missing": [], "is_ready": True, "epoch": 1,
        "answers": 0, "sessions": 0,
        "machines": list(machines), "api_url": "http://127.0.0.1:8470/v1",
    } | fields  # fmt: skip


def shown(shown_view, width=120):
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(cluster_panel(shown_view))
    return capture.get().splitlines()


def test_the_table_shows_where_each_span_lies():
    lines = shown(
        view(
            machine("desk", is_self=True, rows_per_s=21),
            machine("attic", span=None, planned="4:8", state="fetching", done_percent=40),
            machine("guest", planned=None, span=None, state="waiting", backend=None),
            machine("tower", has_same_model=False, model="other/model", path_kind="direct"),
        )
    )
    assert "ready" in lines[0]
    assert "http://127.0.0.1:8470/v1" in lines[0]
    desk, attic, guest, tower = lines[2:]
    assert "desk *" in desk
    assert "████████········" in desk
    assert desk.rstrip().endswith("21")
    assert "fetching 40 %" in attic
    assert "········░░░░░░░░" in attic
    assert "waiting" in guest
    assert "other/model" in tower
    assert "direct" in tower


def test_it_is_said_which_layers_nobody_serves():
    assert "nobody serves layers 4:8" in shown(view(is_ready=False, missing=["4:8"]))[0]
    assert "looking" in shown(view(is_ready=False, missing=None, layers=None, room=None))[0]
    assert "room for 5 of 8 layers" in shown(view(is_ready=False, missing=["0:8"], room=5))[0]


def test_a_stranger_cannot_write_markup_into_the_table():
    assert "[bold]x[/bold]" in "".join(shown(view(machine("[bold]x[/bold]"))))


def test_json_lines_come_with_changes_and_not_with_rates(capsys):
    lines = _JsonLines()
    lines(view(machine("a")))
    lines(view(machine("a", rows_per_s=9)))
    lines(view(machine("a"), machine("b")))
    written = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(line["machines"]) for line in written] == [1, 2]
    assert all(line["schema"] == 1 for line in written)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--peer", "desk"], "HOST:PORT"), (["--name", " "], "between 1 and 64"),
        (["--memory", "much"], "not an amount of memory"), (["--wire", "fp8"], "--wire"),
    ],
    ids=["peer", "name", "memory", "wire"],
)  # fmt: skip
def test_options_that_cannot_be_meant_are_refused(tmp_path, options, said):
    result = CliRunner().invoke(app, ["up", "--home", str(tmp_path), *options])
    assert result.exit_code == 2
    assert said in result.stderr
