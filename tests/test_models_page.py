"""docs/models.md ticks what the family tests check, no more and no less."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models_page import BACKENDS, CHECKS, FAMILY_TESTS, MARKER, PAGE, place_of, render

pytest.importorskip("torch", reason="the torch backend is not installed")


def ticked_on_the_page() -> set[tuple[str, str, str]]:
    found = set()
    backend = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            backend = line[3:]
        if backend in BACKENDS and line.startswith("| `"):
            family, _, *cells = [cell.strip(" `") for cell in line.strip("|").split("|")]
            ticks = zip(CHECKS, cells, strict=True)
            found |= {(backend, family, check) for check, cell in ticks if cell}
    return found


def all_are_collected(config: pytest.Config) -> bool:
    """Whether this run has chosen among the family tests in no way."""
    paths = [Path(argument).resolve() for argument in config.args]
    is_whole = any(FAMILY_TESTS.is_relative_to(path) for path in paths)
    return is_whole and not config.option.keyword and not config.option.markexpr


def family_tests(session: pytest.Session) -> set[tuple[str, str, str]]:
    """What should be ticked; asks a process of its own where this one has not collected it all."""
    if all_are_collected(session.config):
        return {place_of(mark) for item in session.items for mark in item.iter_markers(MARKER)}
    listed = subprocess.run(
        [sys.executable, "-m", "tests.models_page", "--list"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return {tuple(place) for place in json.loads(listed.stdout.splitlines()[-1])}


def test_the_page_ticks_the_tests_there_are(request):
    tests = family_tests(request.session)
    page = ticked_on_the_page()
    if not any(backend == "mlx" for backend, _, _ in tests):
        page = {place for place in page if place[0] != "mlx"}  # not installed here
    assert page == tests, "run `make models`"


def test_a_failed_check_is_not_ticked():
    page = render({("torch", "llama", "cuts"): True, ("torch", "llama", "verify"): False})
    assert "| `llama` | Llama 2, 3.x; SmolLM2; many others of this shape | ✓ |  |  |  |  |" in page
