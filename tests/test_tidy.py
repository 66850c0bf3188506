"""The style that a machine can hold (CONTRIBUTING.md): names, sizes, floats near money, prints."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "protocol",
    "transport",
    "planning",
    "node",
    "relay",
    "marketplace",
    "ledger",
    "migrations",
)
BANNED_NAMES = frozenset({"utils", "util", "helpers", "helper", "common", "misc", "tools", "stuff"})
FILE_LINES_MAX = 300
FUNCTION_LINES_MAX = 70

# a file above the mark, and why it is still one noun
LONG_FILES: dict[str, str] = {
    "protocol/frame.py": "the whole wire on one page, a third of it the page itself",
}
# a function above the mark, and why it reads better whole: "path::name"
LONG_FUNCTIONS: dict[str, str] = {}

# where stdout is the product
PRINTING = ("node/cli", "marketplace/cli.py")
# money: integers only
MONEY = ("ledger", "protocol/money.py", "protocol/receipt.py", "protocol/lease.py")

SOURCES = {
    str(path.relative_to(ROOT)): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


@functools.cache
def _trees() -> dict[str, ast.Module]:
    """Not at import: every worker collects this file, and few run its tests."""
    return {name: ast.parse(path.read_bytes()) for name, path in SOURCES.items()}


def test_no_module_is_named_for_nothing():
    assert not [name for name in SOURCES if _stems(name) & BANNED_NAMES]


def test_files_are_of_one_sitting_or_say_why_not():
    long = {name for name, path in SOURCES.items() if _line_count(path) > FILE_LINES_MAX}
    assert long == set(LONG_FILES), "split it, or give the reason in LONG_FILES"


def test_functions_fit_on_a_screen_or_say_why_not():
    long = {
        f"{name}::{function.name}"
        for name, tree in _trees().items()
        for function in _functions(tree)
        if (function.end_lineno or 0) - function.lineno + 1 > FUNCTION_LINES_MAX
    }
    assert long == set(LONG_FUNCTIONS), "split it, or give the reason in LONG_FUNCTIONS"


def test_every_module_says_what_it_is():
    silent = [
        name
        for name, tree in _trees().items()
        if tree.body and ast.get_docstring(tree) is None and "versions/" not in name
    ]
    assert not silent


def test_every_package_is_typed():
    assert not [name for name in PACKAGES if not (ROOT / name / "py.typed").exists()]


@pytest.mark.parametrize("name", sorted(name for name in SOURCES if name.startswith(MONEY)))
def test_no_float_comes_near_money(name):
    # `/` alone divides Path objects too, but none of these files should need that either
    floats = [
        node.lineno
        for node in ast.walk(_trees()[name])
        if (isinstance(node, ast.Constant) and isinstance(node.value, float))
        or (isinstance(node, ast.Name) and node.id in ("float", "Decimal"))
        or (isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div))
    ]
    assert not floats, f"{name}: lines {floats}"


def test_only_the_command_line_prints():
    printing = [
        f"{name}:{node.lineno}"
        for name, tree in _trees().items()
        if not name.startswith(PRINTING)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("print", "input", "breakpoint")
    ]
    assert not printing


def test_no_bare_except_and_no_silenced_exception():
    silent = [
        f"{name}:{node.lineno}"
        for name, tree in _trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (
            node.type is None
            or (
                isinstance(node.type, ast.Name)
                and node.type.id in ("Exception", "BaseException")
                and isinstance(node.body[0], ast.Pass)
            )
        )
    ]
    assert not silent


def test_nothing_that_could_run_a_strangers_code():
    dangerous = [
        f"{name}:{node.lineno} {called}"
        for name, tree in _trees().items()
        for node in ast.walk(tree)
        if (called := _dangerous(node))
    ]
    assert not dangerous


def _dangerous(node: ast.AST) -> str:
    match node:
        case ast.Import(names=names):
            found = {alias.name.split(".")[0] for alias in names} & {"pickle", "marshal", "shelve"}
            return ", ".join(found)
        case ast.ImportFrom(module=("pickle" | "marshal" | "shelve") as module):
            return module
        case ast.Call(func=ast.Name(id=("eval" | "exec" | "compile" | "__import__") as called)):
            return called
        case ast.keyword(
            arg=("shell" | "trust_remote_code") as arg, value=ast.Constant(value=True)
        ):
            return arg
    return ""


def _stems(name: str) -> set[str]:
    return set(Path(name).with_suffix("").parts)


def _line_count(path: Path) -> int:
    return len(path.read_text().splitlines())


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
