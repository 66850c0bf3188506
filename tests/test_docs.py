"""The documents are true where a machine can tell: links, commands, words, paths, decisions."""

import enum
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.tensor import WireDtype
from tests.command_lines import PROGRAMS, find_fault
from transport.base import PathKind

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

# terms of the glossary that are a name in the code; a term that is not listed is prose
TERMS: dict[str, str] = {
    "PeerId": "protocol.identity:PeerId",
    "ModelManifest": "protocol.model:ModelManifest",
    "Span": "protocol.route:Span",
    "Hop": "protocol.route:Hop",
    "Route": "protocol.route:Route",
    "Wire dtype": "protocol.tensor:WireDtype",
    "Frame": "protocol.frame:Frame",
    "Meter": "protocol.frame:Meter",
    "Step": "protocol.frame:Step",
    "Connection / Stream": "transport.base:Connection",
    "PathKind": "transport.base:PathKind",
    "Record / Envelope": "protocol.envelope:Envelope",
    "Announcement": "protocol.announcement:Announcement",
    "Offer": "protocol.offer:Offer",
    "Lease": "protocol.lease:Lease",
    "Receipt": "protocol.receipt:Receipt",
    "Nanos": "protocol.money:Nanos",
    "Rate": "protocol.money:Rates",
    "Head": "node.head.answer:Head",
    "Entry / Checkpoint": "ledger.checkpoint:Checkpoint",
}


def _blocks(text: str, language: str) -> Iterator[str]:
    for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()


def _commands() -> Iterator[tuple[str, list[str], bool]]:
    """(page, words, in a block) of every command in bash blocks and code spans."""
    for page, text in PAGES.items():
        for line in _blocks(text, "bash"):
            for words in _split(line):
                yield page, words, True
        for span in re.findall(r"`((?:piecework|make)[^`\n]*)`", text):
            if "=" not in span.split()[0]:
                yield page, shlex.split(span), False


def _split(line: str) -> Iterator[list[str]]:
    """The simple commands of one shell line, without what is set before them."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set("();<>|&"):
            words.append(word)
            continue
        while words and re.fullmatch(r"\w+=.*|export|exec", words[0]):
            words = words[1:]
        yield words
        words = []


OURS = [
    (page, [Path(words[0]).name, *words[1:]], whole)
    for page, words, whole in _commands()
    if words and Path(words[0]).name in PROGRAMS
]


@pytest.mark.parametrize(
    ("page", "words", "whole"), OURS, ids=[f"{page}: {' '.join(words)}" for page, words, _ in OURS]
)
def test_documented_command_is_one_that_the_program_takes(page, words, whole):
    assert len(words) == 1 or find_fault(words, whole=whole) == ""


def test_documented_urls_are_served(tmp_path):
    from fastapi.testclient import TestClient

    from marketplace.app import create_app
    from marketplace.config import MarketConfig
    from node.api.application import create_api
    from node.api.readiness import Readiness
    from node.head.testing import FakeHead
    from relay.resources import Resources
    from relay.status import create_status_app

    apis = {
        8470: create_api(FakeHead(), readiness=Readiness()),
        8471: create_app(MarketConfig(home=tmp_path)),
        8480: create_status_app(lambda: None, Resources(), lambda: None),
    }
    served = {port: set(api.openapi()["paths"]) for port, api in apis.items()}
    # health is for machines, and left out of the schema
    assert TestClient(apis[8470]).get("/health").status_code in (200, 503)
    served[8470].add("/health")
    for page, text in PAGES.items():
        for port, path in re.findall(r"http://127\.0\.0\.1:(\d+)(/[^\s\"'`]*)", text):
            patterns = [re.sub(r"\{\w+(:path)?\}", "[^/]+", known) for known in served[int(port)]]
            assert path == "/v1" or any(re.fullmatch(known, path) for known in patterns), page


def test_documented_make_targets_exist():
    for page, words, _ in _commands():
        if words[:1] == ["make"]:
            targets = {word for word in words[1:] if "=" not in word}
            assert targets <= TARGETS, page


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", PAGES[page], flags=re.S)):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page} -> {target}"
        if anchor:
            assert anchor in _anchors(file.read_text()), f"{page} -> {target}"


@pytest.mark.parametrize("page", sorted(PAGES))
def test_paths_in_code_spans_exist(page):
    for path in re.findall(r"`([\w.-]+/[\w./-]+\.(?:py|md|toml|yml|json))`", PAGES[page]):
        assert (ROOT / path).exists(), f"{page}: {path}"


@pytest.mark.parametrize("page", sorted(PAGES))
def test_no_page_knows_the_machine_it_was_written_on(page):
    assert not re.findall(r"(?<![\w.])/(?:home|root|work|Users)/\w+", PAGES[page])


def test_every_page_can_be_reached_from_the_readme():
    reached, waiting = set(), ["README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page not in PAGES:
            continue
        reached.add(page)
        for target in re.findall(r"\]\(([^)#\s]+)", PAGES[page]):
            if "://" not in target:
                file = ((ROOT / page).parent / target).resolve()
                waiting.append(str(file.relative_to(ROOT)))
    assert set(PAGES) == reached


def test_readme_needs_two_commands_and_no_other_set_up():
    (block,) = (
        lines
        for lines in re.findall(r"^```bash\n(.*?)^```", PAGES["README.md"], re.MULTILINE | re.S)
        if "make" in lines
    )
    assert block.split("\n")[:2] == ["make demo", "make test"]


def test_glossary_is_a_table_of_terms_that_the_code_uses():
    terms = _glossary()
    for term, place in TERMS.items():
        assert term in terms
        module, name = place.split(":")
        assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize(("term", "kind"), [("PathKind", PathKind), ("Wire dtype", WireDtype)])
def test_glossary_names_every_value(term: str, kind: type[enum.Enum]):
    words = set(re.findall(r"\w+", _glossary()[term]))
    assert {str(member.value) for member in kind} <= words


def test_every_signed_record_is_in_the_glossary():
    records = set()
    for path in (ROOT / "protocol").glob("*.py"):
        for name in re.findall(r"^class (\w+)[^\n]*\n(?:(?!^class ).)*?DOMAIN: ClassVar\[str\] = ",
                               path.read_text(), re.MULTILINE | re.DOTALL):  # fmt: skip
            records.add(name)
    assert records
    assert records <= set(_glossary())


DECISIONS = sorted((ROOT / "docs/adr").glob("0*.md"))


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_decision_has_its_four_headings_and_stands_in_the_list(path):
    text = path.read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "Context",
        "Decision",
        "Consequences",
        "Alternatives",
    ]
    title = text.splitlines()[0].removeprefix("# ")
    assert title.startswith(path.stem[:4])
    assert f"[{title}]({path.name})" in (ROOT / "docs/adr/README.md").read_text()


def test_decisions_are_numbered_without_gaps():
    numbers = [int(path.stem[:4]) for path in DECISIONS]
    assert numbers == list(range(1, len(DECISIONS) + 1))


def test_architecture_names_every_package():
    text = PAGES["docs/architecture.md"]
    for path in ROOT.glob("*/py.typed"):
        assert f"`{path.parent.name}/`" in text


def test_changelog_has_an_unreleased_section():
    assert "\n## [Unreleased]\n" in PAGES["CHANGELOG.md"]


def _glossary() -> dict[str, str]:
    rows = re.findall(r"^\| \*\*(.+?)\*\* \| (.+) \|$", PAGES["docs/glossary.md"], re.MULTILINE)
    return dict(rows)


def _anchors(text: str) -> set[str]:
    """Anchors as the usual renderers make them from headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
