"""Writes docs/models.md from the family tests: `python -m tests.models_page` runs them first.

A test stands in the page by its marker `pytest.mark.family(NAME, check=..., backend=...)`. A family
has a tick under a check where at least one test of it ran and all of them passed. With `--list` the
tests are only collected, and what the page should tick is printed as JSON.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from node.engine.torch_backend.families import MISSING, ROPE_TYPES

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
FAMILY_TESTS = Path(__file__).parent / "node" / "engine"
MARKER = "family"
CHECKS = {
    "cuts": "cut in two at every layer boundary, and in three",
    "batched": "several sequences of unlike lengths in one ragged batch",
    "chunks": "prompt prefilled in chunks",
    "verify": "k drafted tokens verified in one step, some rejected",
    "truncate": "rows taken back, also behind a sliding window",
}
"""The columns, in their order, and what a tick under each means."""

BACKENDS = ("torch", "mlx")

KNOWN_AS = {
    "cohere2": "Command R7B, Command A",
    "gemma": "Gemma 1",
    "glm4_moe": "GLM-4.5, 4.6",
    "granite": "Granite 3.x dense",
    "smollm3": "SmolLM3",
    "deepseek_v2": "DeepSeek-V2, V2-Lite",
    "deepseek_v3": "DeepSeek-V3, R1, in bf16 (their FP8 files are refused)",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3 270M, 1B",
    "gpt_oss": "gpt-oss",
    "llama": "Llama 2, 3.x; SmolLM2; many others of this shape",
    "mistral": "Mistral 7B, Nemo, Ministral",
    "mixtral": "Mixtral 8x7B, 8x22B",
    "phi3": "Phi-3, Phi-3.5, Phi-4",
    "qwen2": "Qwen2, Qwen2.5, R1-Distill-Qwen",
    "qwen3": "Qwen3 dense",
    "qwen3_moe": "Qwen3 A3B, A22B",
}

Ticks = dict[tuple[str, str, str], bool]
"""(backend, family, check) to whether every test of it passed."""


class Recorder:
    """A pytest plugin: which family tests there are, and how they went."""

    def __init__(self) -> None:
        self.collected: set[tuple[str, str, str]] = set()
        self.ticks: Ticks = {}
        self._places: dict[str, set[tuple[str, str, str]]] = {}

    def pytest_collection_modifyitems(self, items: Iterable[pytest.Item]) -> None:
        for item in items:
            places = {place_of(mark) for mark in item.iter_markers(MARKER)}
            self._places[item.nodeid] = places
            self.collected |= places

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for place in self._places.get(report.nodeid, ()):
            if report.when == "call" or not report.passed:
                self.ticks[place] = self.ticks.get(place, True) and report.passed


def place_of(mark: pytest.Mark) -> tuple[str, str, str]:
    """(backend, family, check) of a `family` marker."""
    (family,) = mark.args
    check = mark.kwargs["check"]
    assert check in CHECKS, f"{check} is no column of docs/models.md"
    return mark.kwargs.get("backend", "torch"), family, check


def run(*options: str) -> Recorder:
    recorder = Recorder()
    arguments = ["-q", "-m", MARKER, str(FAMILY_TESTS), *options]
    status = pytest.main(arguments, plugins=[recorder])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise SystemExit(int(status))
    return recorder


def render(ticks: Ticks) -> str:
    """The page."""
    lines = [
        "# Models",
        "",
        "Written by `make models` from the tests that ran. A tick: tiny models of the family gave",
        "the same tokens in pieces as unsplit in transformers, in fp32, for",
        "",
        *(f"- **{check}**: {meaning}." for check, meaning in CHECKS.items()),
        "",
        "Any other family is refused by name at load: nothing is served that has no test.",
    ]
    for backend in BACKENDS:
        families = sorted({family for b, family, _ in ticks if b == backend})
        lines += ["", f"## {backend}", "", _row("family", "published as", *CHECKS), _rule()]
        for family in families:
            cells = ["✓" if ticks.get((backend, family, check)) else "" for check in CHECKS]
            lines.append(_row(f"`{family}`", KNOWN_AS.get(family, ""), *cells))
    lines += ["", "## Refused, and what is missing", ""]
    lines += _refused()
    return "\n".join(lines) + "\n"


def _refused() -> list[str]:
    reasons: dict[str, list[str]] = {}
    for family, lack in sorted(MISSING.items()):
        reasons.setdefault(lack, []).append(f"`{family}`")
    lines = [f"- {lack}: {', '.join(families)}" for lack, families in sorted(reasons.items())]
    served = ", ".join(f"`{kind}`" for kind in sorted(ROPE_TYPES))
    return [*lines, f"- rotary embeddings of other types than {served}"]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _rule() -> str:
    return _row("---", "---", *([":-:"] * len(CHECKS)))


def main(arguments: list[str]) -> int:
    if arguments == ["--list"]:
        recorder = run("--collect-only")
        sys.stdout.write("\n" + json.dumps(sorted(recorder.collected)) + "\n")
        return 0
    recorder = run()
    PAGE.write_text(render(recorder.ticks))
    failed: list[Any] = [place for place, passed in recorder.ticks.items() if not passed]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
