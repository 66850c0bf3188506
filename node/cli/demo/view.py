"""How the demo looks in a terminal: calm, the answer first, then the proof."""

from typing import Any

from rich.console import Console
from rich.table import Table

from protocol.money import format_usd

__all__ = ["print_report"]


def print_report(console: Console, report: dict[str, Any]) -> None:
    """The route, the speed, the money and the checks of one finished demo."""
    console.print()
    console.print(_route(report["route"]))
    console.print(
        f"\n{report['completion_tokens']} tokens at {report['tokens_per_s']:.1f} tokens/s, "
        f"the first after {report['first_token_s']:.2f} s",
        highlight=False,
    )
    console.print(_money(report))
    _, size, root, *_ = report["checkpoint"].splitlines()
    console.print(f"checkpoint  {size} entries, root {root}", highlight=False)
    audit = report["audit"]
    console.print(
        f"audit       {audit['leaves']} entries, {audit['receipts']} receipts, "
        f"{audit['settlements']} settlements: {'ok' if audit['ok'] else 'PROBLEMS'}",
        highlight=False,
    )
    for name, ok in report["checks"].items():
        console.print(f"  [{'green' if ok else 'bold red'}]{'✓' if ok else '✗'}[/] {name}")


def _route(route: list[dict[str, Any]]) -> Table:
    table = Table("hop", "peer", "layers", "engine", "path", "earned", "in", "out", box=None)
    for column in table.columns[5:]:
        column.justify = "right"
    for index, hop in enumerate(route):
        table.add_row(
            str(index),
            hop["peer_id"][-8:],
            hop["span"],
            hop["backend"],
            hop["path"],
            format_usd(hop["earned_nanos"]),
            f"{hop['bytes_in'] or 0:,} B",
            f"{hop['bytes_out'] or 0:,} B",
        )
    return table


def _money(report: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, key in (
        ("charged to the buyer", "charged_nanos"),
        ("credited to providers", "credited_nanos"),
        ("fee", "fee_nanos"),
        ("sum over the ledger", "ledger_sum_nanos"),
    ):
        table.add_row(name, format_usd(report[key]))
    return table
