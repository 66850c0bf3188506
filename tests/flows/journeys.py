"""Runs the blocks of a page in docs/guides from top to bottom, as one program.

`python` blocks share one set of names; `bash` blocks run in one directory. Between them a comment
may ask for what a reader would simply wait for: `<!-- jobs -->` runs the marketplace's jobs once,
`<!-- time passes: 16 days -->` moves its clock on, with the jobs run every STEP_DAYS.
"""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx

from node.cli.demo.pool import DemoPool

__all__ = ["closing", "run_buyers_page", "run_page"]

ROOT = Path(__file__).parents[2]
_PART = re.compile(
    r"^```(?P<language>python|bash)\n(?P<code>.*?)^```|"
    r"^<!-- (?:(?P<jobs>jobs)|time passes: (?P<days>\d+) days) -->",
    re.MULTILINE | re.DOTALL,
)
COMMAND_TIMEOUT_S = 60
STEP_DAYS = 8
"""Payouts are weekly: each step may see one."""


@contextlib.contextmanager
def closing(names: dict[str, object]) -> Iterator[dict[str, object]]:
    """The names of a page; the clients that it opens are closed at the end."""
    try:
        yield names
    finally:
        for value in names.values():
            if isinstance(value, httpx.Client):
                value.close()


def run_page(
    name: str,
    names: dict[str, object],
    directory: Path,
    *,
    run_jobs: Callable[[], None] | None = None,
    pass_days: Callable[[int], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run `docs/guides/{name}`; a failure names the line of the page."""
    text = (ROOT / "docs" / "guides" / name).read_text()
    for part in _PART.finditer(text):
        line = text.count("\n", 0, part.start())
        if part["jobs"]:
            assert run_jobs is not None, "this page's marketplace runs its own jobs"
            run_jobs()
        elif part["days"]:
            assert pass_days is not None, "this page's marketplace has a clock of its own"
            for _ in range(0, int(part["days"]), STEP_DAYS):
                pass_days(STEP_DAYS)
        elif part["language"] == "bash":
            _run_shell(part["code"], directory, environment or {}, f"{name}:{line + 1}")
        else:
            # empty lines before the block, so that a traceback names the page's own line
            code = compile("\n" * (line + 1) + part["code"], name, "exec")
            exec(code, names)


def run_buyers_page(pool: DemoPool, directory: Path) -> None:
    """`journey-buyer.md` against a running pool, in a directory that is the process's own."""
    environment = os.environ | {
        "MARKET": pool.market_url,
        "PIECEWORK_HOME": str(directory / "buyer"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    names: dict[str, object] = {
        "MARKET": pool.market_url,
        "GATEWAY": pool.base_url.removesuffix("/v1"),
    }
    with closing(names):
        run_page("journey-buyer.md", names, directory, environment=environment)


def _run_shell(code: str, directory: Path, environment: Mapping[str, str], where: str) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=directory,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{where}: {done.stdout}\n{done.stderr}"
