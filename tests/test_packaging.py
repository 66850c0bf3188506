"""What is in the wheel: the programs and their data, and nothing else."""

import email
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "protocol",
    "transport",
    "planning",
    "node",
    "relay",
    "marketplace",
    "ledger",
    "migrations",
}
MODEL = "node/assets/piecework-tiny/"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", str(ROOT), "--quiet"),
            *("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)),
            "--disable-pip-version-check",
        ],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def names(wheel):
    return set(wheel.namelist())


def test_holds_our_packages_and_no_tests(names):
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == PACKAGES


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_every_source_file_is_in_it_and_typed(names, package):
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")}
    assert sources <= names
    assert f"{package}/py.typed" in names
    assert not [name for name in names if "__pycache__" in name]


def test_model_of_the_demo_is_in_it_and_readable_by_all(wheel, names):
    files = {path.name for path in (ROOT / MODEL).iterdir()}
    assert {"config.json", "tokenizer.json", "model.safetensors.index.json"} <= files
    assert {MODEL + name for name in files} <= names
    private = [info.filename for info in wheel.infolist() if not (info.external_attr >> 16) & 0o004]
    assert not private, "a service that runs as another user could not read these"


def test_migrations_are_in_it(names):
    versions = {name for name in names if name.startswith("migrations/versions/")}
    assert versions
    beside = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "migrations").rglob("*.mako")  # what `alembic revision` starts from
    }
    assert beside <= names


def test_console_scripts(wheel, names):
    (path,) = (name for name in names if name.endswith("entry_points.txt"))
    assert wheel.read(path).decode().split() == [
        "[console_scripts]",
        *("piecework", "=", "node.cli.main:main"),
        *("piecework-market", "=", "marketplace.cli:main"),
        *("piecework-relay", "=", "relay.cli:main"),
    ]


def test_metadata(wheel, names):
    (path,) = (name for name in names if name.endswith("METADATA"))
    metadata = email.message_from_bytes(wheel.read(path))
    assert metadata["Name"] == "piecework"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == {
        *("torch", "mlx", "market", "demo", "dev")
    }
    base = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not [line for line in base if line.startswith(("torch", "mlx", "sqlmodel"))]
    assert "LICENSE" in "".join(names)


def test_every_requirement_is_pinned_in_constraints():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [Requirement(line) for line in project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        required += [Requirement(line) for line in extra]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {
        canonicalize_name(line.split("==")[0]): line.split("==")[1]
        for line in lines
        if "==" in line
    }
    assert not [line for line in lines if line and not line.startswith("#") and "==" not in line]
    for requirement in required:
        if requirement.name != "piecework":
            assert pinned[canonicalize_name(requirement.name)] in requirement.specifier
