"""`piecework doctor`: a line a finding as soon as it is there, ✓ ! or ✗, and what mends it."""

import json
import logging
import sys
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from node.app.checkup import Check
from node.app.doctor import DoctorOptions, examine
from node.cli.options import home_path, network_options
from node.cli.program import fail, run_task
from protocol.errors import PieceworkError
from transport.address import TcpAddress
from transport.diagnosis.finding import Finding, Level
from transport.lan.static import parse_host_port

__all__ = ["exit_code", "plain_lines", "report_object", "run_doctor"]

SCHEMA: Final = 1
NAME_WIDTH: Final = 18
EXIT_UNWELL: Final = 1

_MARKS: Final = {Level.OK: "✓", Level.WARN: "!", Level.FAIL: "✗"}
_ASCII_MARKS: Final = {Level.OK: "+", Level.WARN: "!", Level.FAIL: "x"}
_COLOURS: Final = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


def run_doctor(
    *,
    home: Path | None,
    relays: tuple[str, ...],
    market: str,
    peers: tuple[str, ...],
    api_port: int,
    listen_port: int,
    as_json: bool,
) -> None:
    """Look at everything; leave with 1 if a finding is ✗."""
    try:
        for peer in peers:
            parse_host_port(peer)
        network = network_options(("0.0.0.0", listen_port), relays)
    except PieceworkError as error:
        fail(error)
    options = DoctorOptions(
        home=home_path(home),
        relays=tuple(map(TcpAddress.from_text, network.relays)),
        market_url=market,
        peers=peers,
        api_port=api_port,
        listen_port=listen_port,
    )
    # the story of sockets and relays would run through the lines that tell it better
    logging.getLogger("transport").setLevel(logging.WARNING)
    with _Screen(as_json=as_json) as screen:
        findings = run_task(lambda: examine(options, screen.on_progress))
    if as_json:
        sys.stdout.write(json.dumps(report_object(findings), ensure_ascii=False) + "\n")
    else:
        screen.summarize(findings)
    sys.exit(exit_code(findings))


def exit_code(findings: list[Finding]) -> int:
    """1 if something must be mended."""
    return EXIT_UNWELL if any(finding.level is Level.FAIL for finding in findings) else 0


def report_object(findings: list[Finding]) -> dict[str, object]:
    """What `--json` prints."""
    levels = [finding.level for finding in findings]
    return {
        "schema": SCHEMA,
        "ok": Level.FAIL not in levels,
        "findings": [
            {"name": f.name, "level": f.level.value, "text": f.text, "fix": f.fix or None}
            for f in findings
        ],
    }


def plain_lines(finding: Finding, *, can_draw: bool = True) -> str:
    """For pipes and files: the finding, and under it the fix."""
    marks, arrow = (_MARKS, "→") if can_draw else (_ASCII_MARKS, "->")
    line = f"{marks[finding.level]} {finding.name:<{NAME_WIDTH}} {finding.text}\n"
    return line + (f"{'':<{NAME_WIDTH + 2}} {arrow} {finding.fix}\n" if finding.fix else "")


class _Screen:
    """Findings to stdout in the checks' order; what is being looked at, on a terminal only."""

    def __init__(self, *, as_json: bool) -> None:
        self._is_silent = as_json
        self._is_drawn = sys.stdout.isatty() and not as_json
        self._console = Console() if self._is_drawn else Console(stderr=True)
        self._live = Live(console=self._console, transient=True, refresh_per_second=12)
        self._order: list[Check] = []
        """Begun, and not yet shown."""
        self._found: dict[Check, list[Finding]] = {}

    def __enter__(self) -> "_Screen":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def on_progress(self, check: Check, findings: list[Finding] | None) -> None:
        """See node.app.doctor.Progress."""
        if findings is None:
            self._order.append(check)
        else:
            self._found[check] = findings
        while self._order and self._order[0] in self._found:
            for finding in self._found[self._order.pop(0)]:
                self._show(finding)
        waiting = [each.name for each in self._order if each not in self._found]
        text = Text(f" looking at {', '.join(waiting)}" if waiting else "", style="dim")
        self._live.update(Spinner("dots", text) if waiting else text)

    def summarize(self, findings: list[Finding]) -> None:
        """The last line, for a person."""
        self._live.stop()
        failed, warned = (
            sum(finding.level is level for finding in findings)
            for level in (Level.FAIL, Level.WARN)
        )
        if failed:
            text = f"{failed} to mend before this machine works as it should."
        elif warned:
            text = f"It works; {warned} could be better."
        else:
            text = "All is well."
        if self._is_drawn:
            self._console.print(Text(f"\n{text}", style="bold"))

    def _show(self, finding: Finding) -> None:
        if self._is_silent:
            return
        if not self._is_drawn:
            sys.stdout.write(plain_lines(finding, can_draw=_can_draw()))
            sys.stdout.flush()
            return
        # a grid, so that long texts wrap under themselves
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=1)
        grid.add_column(width=NAME_WIDTH)
        grid.add_column(overflow="fold")
        mark = Text(_MARKS[finding.level], style=_COLOURS[finding.level])
        grid.add_row(mark, Text(finding.name, style="bold"), Text(finding.text))
        if finding.fix:
            grid.add_row("", "", Text(f"→ {finding.fix}", style="cyan"))
        self._console.print(grid)


def _can_draw() -> bool:
    try:
        "✓✗→".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
