"""The house stands as drawn: import contracts, and who alone may import which outside package.

Contracts between our packages are in pyproject.toml ([tool.importlinter]); the table below is the
one of docs/architecture.md, "Only here".
"""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "protocol", "transport", "planning", "node", "relay", "marketplace", "ledger", "migrations",
)  # fmt: skip

# outside package -> the modules (and their children) that may import it; () is nobody
ONLY_HERE: dict[str, tuple[str, ...]] = {
    "aioquic": ("transport",),
    # between peers only in transport; the others listen for HTTP, or talk to a child of their own
    "socket": (
        "transport",
        "relay.serving",
        "node.engine",
        "node.api.serving",
        "node.cli.demo",
        "marketplace.cli",
    ),
    "libp2p": ("transport",),
    "multiaddr": ("transport",),
    "trio": ("transport",),
    "zeroconf": ("transport",),
    "miniupnpc": ("transport",),
    "stripe": ("marketplace.payments.stripe_gateway",),
    "argon2": ("marketplace.users",),
    "pyotp": ("marketplace.users",),
    "psycopg": ("ledger",),
    "torch": ("node.engine.torch_backend",),
    "transformers": ("node.engine.torch_backend",),
    "mlx": ("node.engine.mlx_backend",),
    "mlx_lm": ("node.engine.mlx_backend",),
    "sqlmodel": ("ledger", "marketplace", "migrations"),
    "sqlalchemy": ("ledger", "marketplace", "migrations"),
    "alembic": ("migrations",),
    "fastapi": ("node.api", "node.app", "marketplace", "relay.serving", "relay.status"),
    "starlette": ("node.api", "node.app", "marketplace"),
    "uvicorn": (
        "node.cli",
        "node.app",
        "node.api",
        "marketplace.cli",
        "marketplace.app",
        "relay.serving",
    ),
    "typer": ("node.cli", "marketplace.cli", "marketplace.ledger_pages.cli", "relay.cli"),
    "rich": ("node.cli", "marketplace.cli", "relay.cli"),
    "openai": ("node.cli",),
    "nacl": ("protocol", "transport"),
    "cbor2": ("protocol",),
    "prometheus_client": ("relay.metrics",),
}
# within the marketplace, by the last part of the module's name
MARKETPLACE_FILES: dict[str, tuple[str, ...]] = {
    "sqlmodel": ("models", "repository", "db", "fields"),
    "sqlalchemy": ("models", "repository", "db", "fields"),
    "fastapi": ("endpoints", "app", "auth"),
    "starlette": ("endpoints", "app", "auth"),
}
# the outside world as a package may see it at all, beyond the standard library
OUTSIDE: dict[str, frozenset[str]] = {
    "protocol": frozenset({"nacl", "cbor2"}),
    "planning": frozenset({"numpy", "scipy"}),
    "transport": frozenset(
        {
            "aioquic",
            "cryptography",
            "nacl",
            "uvloop",
            "psutil",
            "libp2p",
            "multiaddr",
            "trio",
            "zeroconf",
            "miniupnpc",
        }
    ),
    "relay": frozenset(
        {
            "fastapi",
            "uvicorn",
            "httpx",
            "typer",
            "rich",
            "pydantic",
            "pydantic_settings",
            "platformdirs",
            "prometheus_client",
            "uvloop",
        }
    ),
    "ledger": frozenset({"sqlmodel", "sqlalchemy", "psycopg"}),
    "migrations": frozenset({"alembic", "sqlmodel", "sqlalchemy"}),
}


def test_import_contracts_are_kept():
    # a process of its own: the linter reconfigures logging for everybody
    tool = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run(
        [tool, "--config", "pyproject.toml", "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("outside", sorted(ONLY_HERE))
def test_outside_package_is_imported_only_where_it_may_be(outside):
    allowed = ONLY_HERE[outside]
    elsewhere = [
        f"{module}:{line}"
        for module, imported, line in _imports()
        if imported == outside and not _is_in(module, allowed)
    ]
    assert not elsewhere, f"{outside} belongs in {allowed or 'no module yet'}"


@pytest.mark.parametrize("outside", sorted(MARKETPLACE_FILES))
def test_marketplace_keeps_database_and_http_in_their_own_files(outside):
    allowed = MARKETPLACE_FILES[outside]
    elsewhere = [
        f"{module}:{line}"
        for module, imported, line in _imports()
        if imported == outside
        and module.startswith("marketplace")
        and module.rpartition(".")[2] not in allowed
    ]
    assert not elsewhere, f"{outside} belongs in marketplace/**/{{{','.join(allowed)}}}.py"


@pytest.mark.parametrize("package", sorted(OUTSIDE))
def test_package_sees_no_more_of_the_outside_world_than_it_needs(package):
    outside = {
        imported
        for module, imported, _ in _imports()
        if module.split(".")[0] == package
        and imported not in PACKAGES
        and imported not in sys.stdlib_module_names
    }
    assert outside <= OUTSIDE[package]


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


@functools.cache
def _imports() -> tuple[tuple[str, str, int], ...]:
    """(importing module, top-level imported package, line), lazy imports too.

    Not at import: every worker collects this file, and few run its tests.
    """
    return tuple(_read_imports())


def _read_imports() -> Iterator[tuple[str, str, int]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.Import):
                    for alias in node.names:
                        yield module, alias.name.split(".")[0], node.lineno
                elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    yield module, node.module.split(".")[0], node.lineno
