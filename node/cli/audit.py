"""`piecework ledger audit`: anyone recomputes what everybody earned, from the public log alone."""

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ledger.audit import AuditReport, audit
from node.cli.options import home_path
from node.cli.program import EXIT_FAILED, run_task, tell
from node.config import Home
from node.errors import MarketUnreachable
from node.market_client import MarketClient
from protocol.identity import KeyPair, PeerId
from protocol.money import format_usd

__all__ = ["audit_ledger"]

PAGE_LEAVES = 1000
SNAPSHOT_ATTEMPTS = 5
LEAVES_MAX = 10_000_000
"""What is held in memory at once; a larger log wants auditing from a file."""


def audit_ledger(*, market: str, home: Path | None, as_json: bool) -> None:
    """Fetch the log, check it, print what it says; exit 1 when anything is wrong."""
    report = run_task(lambda: _audit(market, Home(home_path(home))))
    if as_json:
        sys.stdout.write(json.dumps(_as_object(report)) + "\n")
    else:
        _print(report)
    if not report.ok:
        sys.exit(EXIT_FAILED)


async def _audit(market: str, home: Home) -> AuditReport:
    async with MarketClient(market, KeyPair.generate()) as client:
        terms = await client.terms()
        home.pin_market(client.url, terms.peer_id)
        note, totals = await _signed_totals(client)
        leaves = await _fetch(client, totals["size"])
    return audit(leaves, note, terms.peer_id, totals)


async def _signed_totals(client: MarketClient) -> tuple[str, dict[str, int]]:
    """The newest checkpoint and the book's sums at the same size: two calls, so they may differ
    when a window closes in between; then once more."""
    for _ in range(SNAPSHOT_ATTEMPTS):
        note = await client.checkpoint()
        totals: dict[str, int] = (await client.totals())["checkpoint"]
        if note.splitlines()[1] == str(totals["size"]):
            return note, totals
    raise MarketUnreachable(
        "The ledger grew faster than it could be read.", hint="Try again in a moment."
    )


async def _fetch(client: MarketClient, size: int) -> list[bytes]:
    """The log's first `size` entries, a page at a time."""
    leaves: list[bytes] = []
    while len(leaves) < min(size, LEAVES_MAX):
        page = await client.leaves(len(leaves), min(PAGE_LEAVES, size - len(leaves)))
        if not page:
            break  # the audit will say that entries are missing
        leaves.extend(page)
        tell(f"fetched {len(leaves)} of {size} entries")
    return leaves


def _as_object(report: AuditReport) -> dict[str, object]:
    return {
        "schema": 1,
        "ok": report.ok,
        "leaves": report.leaves,
        "receipts": report.receipts,
        "settlements": report.settlements,
        "size": report.size,
        "root": report.root.hex(),
        "credited": {str(peer): nanos for peer, nanos in report.credited.items()},
        "credited_nanos": report.credited_nanos,
        "charged_nanos": report.charged_nanos,
        "fee_nanos": report.fee_nanos,
        "problems": list(report.problems),
    }


def _print(report: AuditReport) -> None:
    console = Console()
    table = Table("provider", "credited", box=None)
    table.columns[1].justify = "right"
    for peer, nanos in sorted(report.credited.items(), key=lambda item: -item[1]):
        table.add_row(_name(peer), format_usd(nanos))
    console.print(table)
    console.print(
        f"charged {format_usd(report.charged_nanos)} = credited "
        f"{format_usd(report.credited_nanos)} + fee {format_usd(report.fee_nanos)}",
        highlight=False,
    )
    console.print(
        f"{report.leaves} entries, {report.receipts} receipts, {report.settlements} settlements; "
        f"size {report.size}, root {report.root.hex()}",
        highlight=False,
    )
    for problem in report.problems:
        console.print(f"[bold red]✗[/] {problem}", highlight=False)
    console.print("[green]✓ the log is consistent[/]" if report.ok else "[red]✗ not consistent[/]")


def _name(peer: PeerId) -> str:
    return str(peer)
