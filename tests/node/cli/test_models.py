"""`piecework models`: the commands as a person or a script runs them."""

import json

import pytest
from typer.testing import CliRunner

from node.cli.models import models_app
from node.engine.store import TINY_MODEL, build_manifest, resolve_model
from tests.node.models.checkpoints import NAME, make_model, publish_manifest
from tests.node.models.hub_server import serving


@pytest.fixture
def run(tmp_path):
    """Run a command of `piecework models`; (exit code, stdout, stderr)."""

    def run_command(*arguments):
        home = {"PIECEWORK_HOME": str(tmp_path / "home")}
        done = CliRunner().invoke(models_app, [str(a) for a in arguments], env=home)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    return run_command


def test_a_models_life(run, tmp_path):
    model = make_model(tmp_path / "hub")
    manifest = build_manifest(model, NAME)
    with serving(model) as hub:
        code, out, err = run("pull", NAME, "--json", "--from", mirror(hub))
    assert code == 0, err
    pulled = json.loads(out)
    assert (pulled["vouched_by"], pulled["span"]) == ("nobody", None)
    assert pulled["manifest_hash"] == manifest.manifest_hash.hex()
    assert "fetching " in err

    code, out, _ = run("ls", "--json")
    tiny, listed = json.loads(out)["models"]
    assert (tiny["name"], tiny["whole"]) == ("piecework/tiny", True)
    assert (listed["name"], listed["whole"], listed["licence"]) == (NAME, True, "mit")

    shard = tmp_path / "shard"
    code, out, _ = run("split", NAME, "--span", "1:3", "--to", shard)
    assert (code, out) == (0, f"{shard}\n")
    code, out, _ = run("verify", shard, "--json")
    report = json.loads(out)
    assert (code, report["ok"], report["spans"]) == (0, True, ["1:3"])

    tensor = manifest.tensors[-1]
    path = tmp_path / "home" / "models" / NAME / tensor.file
    data = bytearray(path.read_bytes())
    data[tensor.start] ^= 1
    path.write_bytes(data)
    code, out, _ = run("verify", NAME)
    assert code == 1
    assert f"✗ tensor {tensor.name}" in out
    with serving(model) as hub:
        code, out, _ = run("pull", NAME, "--json", "--from", mirror(hub))
    assert json.loads(out)["fetched_bytes"] == tensor.size_bytes
    assert run("verify", NAME)[0] == 0

    code, _, err = run("rm", NAME)
    assert (code, "say --yes" in err) == (2, True)
    code, out, _ = run("rm", NAME, "--yes", "--json")
    assert json.loads(out)["freed_bytes"] > 0
    assert len(json.loads(run("ls", "--json")[1])["models"]) == 1


def mirror(hub):
    return f"{hub.url}/{hub.repository}/resolve/main"


def test_sources_that_fail_are_an_exit_code_of_their_own(run, tmp_path):
    model = make_model(tmp_path / "hub")
    publish_manifest(model)
    with serving(model) as hub:
        hub.faults.flip_from = 2000
        code, out, err = run("pull", NAME, "--from", mirror(hub))
    assert (code, out) == (69, "")
    assert "is not the manifest's" in err
    assert "is dropped" in err


def test_span_from_a_mirror(run, tmp_path):
    model = make_model(tmp_path / "hub")
    with serving(model, with_cdn=False) as hub:
        code, out, err = run("pull", NAME, "--span", "0:1", "--from", mirror(hub))
    assert (code, out) == (0, f"{tmp_path / 'home' / 'models' / NAME}\n")
    assert "nothing vouches for them" in err
    assert NAME in run("ls")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("pull", NAME, "--from", "nonsense"), 2, "is no source"),
        (("pull", NAME, "--span", "2:2"), 2, "empty"),
        (("pull", NAME, "--ends"), 2, "--span"),
        (("pull", "piecework/tiny"), 2, "comes with the program"),
        (("rm", "../home", "--yes"), 2, "not the name of a model"),
        (("verify", "org/none"), 1, "no model"),
        (("split", "piecework/tiny", "--span", "0:99", "--to", "x"), 2, "0:8"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_refusals(run, arguments, code, says):
    done = run(*arguments)
    assert (done[0], done[1]) == (code, "")
    assert says in done[2]


def test_a_gguf_file_becomes_a_model(run, tmp_path):
    pytest.importorskip("gguf", reason="the torch extra brings it")
    pytest.importorskip("torch", reason="its models are written with it")
    from tests.node.models.gguf_cases import write_gguf

    tiny = resolve_model(TINY_MODEL, models_directory=None)
    file = write_gguf(tmp_path / "tiny.gguf", tiny)
    code, out, err = run("pull", file)
    assert code == 2
    assert "models convert" in err
    code, out, err = run("convert", file, "--as", NAME, "--json")
    assert code == 0, err
    assert json.loads(out)["directory"].endswith(NAME)
    code, out, _ = run("ls", "--json")
    assert [entry["name"] for entry in json.loads(out)["models"]] == [TINY_MODEL, NAME]
    code, _, err = run("convert", file, "--as", NAME)
    assert code == 1
    assert "already" in err
