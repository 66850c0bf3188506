"""`piecework ledger audit`: anyone recomputes what everybody earned, from the public log alone."""

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ledger.audit import AuditReport, audit
from ledger.bundle import encode_totals, write_bundle
from ledger.errors import AuditFailed
from node.cli.ledger.source import LogSource, open_directory, open_market, open_saved
from node.cli.ledger.trust import pinned_terms, trusted_key
from node.cli.program import EXIT_FAILED, run_task
from node.errors import ConfigInvalid
from node.market_client import MarketClient
from protocol.identity import KeyPair, PeerId
from protocol.money import format_usd

__all__ = ["audit_ledger"]


def audit_ledger(
    *,
    market: str,
    file: Path | None,
    save: Path | None,
    since: int,
    processes: int,
    market_key: str,
    home: Path | None,
    as_json: bool,
) -> None:
    """Read the log, check it, print what it says; exit 1 when anything is wrong."""

    async def work() -> AuditReport:
        if file is not None:
            if save is not None or since:
                raise ConfigInvalid("--file is read as it is: --save and --since go with --market.")
            key = trusted_key(market_key, market, home)
            return await asyncio.to_thread(_audit_file, file, key, processes)
        if not market:
            raise ConfigInvalid("Nothing to audit.", hint="Give --market, or --file.")
        async with MarketClient(market, KeyPair.generate()) as client:
            terms = await pinned_terms(client, home, market_key)
            source = await open_market(client, terms.peer_id, since)
            return await asyncio.to_thread(_audit, source, terms.peer_id, save, processes)

    report = run_task(work)
    if as_json:
        sys.stdout.write(json.dumps(_as_object(report)) + "\n")
    else:
        _print(report)
    if not report.ok:
        sys.exit(EXIT_FAILED)


def _audit_file(path: Path, key: PeerId, processes: int) -> AuditReport:
    if path.is_dir():
        return _audit(open_directory(path, key), key, None, processes)
    try:
        with path.open("rb") as file:
            return _audit(open_saved(file, key), key, None, processes)
    except OSError as error:
        raise AuditFailed(f"{path} cannot be read: {error.strerror}.") from None


def _audit(source: LogSource, key: PeerId, save: Path | None, processes: int) -> AuditReport:
    header, late = source.header, []
    with contextlib.ExitStack() as stack:
        entries = source.entries
        if save is not None:
            entries = stack.enter_context(_saving(save, source))
        bar = stack.enter_context(_EntryBar(source.size))
        report = audit(
            entries, header.note, key, encode_totals(header.totals),
            beginning=header.beginning, processes=processes, on_progress=bar,
        )  # fmt: skip
        try:
            for _ in entries:  # what is behind the last entry is looked at too, and saved
                pass
        except AuditFailed as error:
            late.append(f"file: {error}")
    return report.with_problems((*source.problems, *late))


@contextlib.contextmanager
def _saving(path: Path, source: LogSource) -> Iterator[Iterator[bytes]]:
    """Entries that are written down as they pass; the file appears when it is whole."""
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            yield write_bundle(file, source.header, source.entries)
    except OSError as error:
        raise AuditFailed(f"{path} cannot be written: {error.strerror}.") from None
    temporary.replace(path)


class _EntryBar:
    """Entries read so far, on a terminal."""

    def __init__(self, size: int) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("entries"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("entries", total=size)

    def __enter__(self) -> "_EntryBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, count: int) -> None:
        self._bar.update(self._task, completed=count)


def _as_object(report: AuditReport) -> dict[str, object]:
    return {
        "schema": 1,
        "ok": report.ok,
        "leaves": report.leaves,
        "receipts": report.receipts,
        "settlements": report.settlements,
        "balances": report.balances,
        "size": report.size,
        "since": report.since,
        "root": report.root.hex(),
        "credited": {str(peer): nanos for peer, nanos in report.credited.items()},
        "credited_nanos": report.credited_nanos,
        "charged_nanos": report.charged_nanos,
        "fee_nanos": report.fee_nanos,
        "unjudged_receipts": report.unjudged.receipts,
        "unjudged_settlements": report.unjudged.settlements,
        "witnesses": [str(cosignature.witness) for cosignature in report.witnesses],
        "problems": list(report.problems),
    }


def _print(report: AuditReport) -> None:
    console = Console()
    table = Table("provider", "credited", box=None)
    table.columns[1].justify = "right"
    for peer, nanos in sorted(report.credited.items(), key=lambda item: -item[1]):
        table.add_row(str(peer), format_usd(nanos))
    console.print(table)
    lines = [
        f"charged {format_usd(report.charged_nanos)} = credited "
        f"{format_usd(report.credited_nanos)} + fee {format_usd(report.fee_nanos)}",
        f"{report.leaves} entries, {report.receipts} receipts, {report.settlements} settlements, "
        f"{report.balances} balance trees; size {report.size}, root {report.root.hex()}",
        f"cosigned by {len(report.witnesses)} nodes",
    ]
    if report.since:
        lines.append(
            f"entries before {report.since} were not read: {report.unjudged.settlements}"
            f" settlements and {report.unjudged.receipts} receipts rest on them and were not"
            " judged whole"
        )
    for line in lines:
        console.print(line, highlight=False)
    for problem in report.problems:
        console.print("[bold red]✗[/] ", end="")
        console.print(problem, markup=False, highlight=False)
    console.print("[green]✓ the log is consistent[/]" if report.ok else "[red]✗ not consistent[/]")
