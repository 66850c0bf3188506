"""docs/models.md ticks what the family tests check, no more and no less."""

import json
import subprocess
import sys

import pytest

from tests.models_page import BACKENDS, CHECKS, PAGE, render

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


def test_the_page_ticks_the_tests_there_are():
    listed = subprocess.run(
        [sys.executable, "-m", "tests.models_page", "--list"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    tests = {tuple(place) for place in json.loads(listed.stdout.splitlines()[-1])}
    page = ticked_on_the_page()
    if not any(backend == "mlx" for backend, _, _ in tests):
        page = {place for place in page if place[0] != "mlx"}  # not installed here
    assert page == tests, "run `make models`"


def test_a_failed_check_is_not_ticked():
    page = render({("torch", "llama", "cuts"): True, ("torch", "llama", "verify"): False})
    assert "| `llama` | Llama 2, 3.x; SmolLM2; many others of this shape | ✓ |  |  |  |  |" in page
