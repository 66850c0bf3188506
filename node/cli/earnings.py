"""`piecework earnings`: what this household's machines have earned, and where the money is."""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from node.cli.options import home_path
from node.cli.program import run_task
from node.config import Home
from node.errors import MarketRefused
from node.market_client import MarketClient
from node.market_shapes import Shape, is_text, is_whole
from protocol.money import format_usd

__all__ = ["show_earnings"]

UNBOUND = "machine_unbound"
"""The marketplace's code for a machine without an account."""

_PLACES = (
    ("unsettled", "unsettled_nanos", "carried; settled when the sessions are over"),
    ("waiting", "waiting_nanos", "settled; released when a buyer can no longer take it back"),
    ("held", "held_nanos", "the reserve of a young account, given back by and by"),
    ("payable", "payable_nanos", "goes out with the next payout"),
    ("in transit", "in_transit_nanos", "on its way to you"),
    ("paid", "paid_nanos", "paid out in all"),
)
_REPORT: Shape = {
    "earned_nanos": is_whole,
    **{field: is_whole for _, field, _ in _PLACES},
    "held": [{"reason": is_text, "nanos": is_whole, "until_s": is_whole}],
    "machines": [
        {
            "name": is_text,
            "peer_id": is_text,
            "earned_nanos": is_whole,
            "waiting_nanos": is_whole,
            "unsettled_nanos": is_whole,
        }
    ],
}
_PART: Shape = {
    "group": is_text,
    "sessions": is_whole,
    "token_layers": is_whole,
    "bytes_carried": is_whole,
    "settled_nanos": is_whole,
    "unsettled_nanos": is_whole,
}
_BREAKDOWN: Shape = {"by": is_text, "data": [_PART], "total": _PART}
"""What is printed of the two pages."""
_REASONS = {
    "reserve": "reserve of a young provider",
    "new_buyer": "a new buyer's payment may still be taken back",
    "buyer_share": "one buyer paid most of a day",
    "linked_buyer": "the buyer is linked to you",
}


def show_earnings(*, market: str, home: Path | None, by: str, days: int, as_json: bool) -> None:
    """Ask as the machine of this home, and print; exit 1 where nobody answers."""

    async def work() -> None:
        path = Home(home_path(home))
        async with MarketClient(market, path.load_or_create_key()) as client:
            terms = await client.terms()
            path.pin_market(client.url, terms.peer_id)
            try:
                report = await client.ask("/v1/earnings", _REPORT)
            except MarketRefused as error:
                if error.code != UNBOUND:
                    raise
                await _show_alone(client, as_json=as_json)
                return
            start = datetime.now(UTC).date() - timedelta(days=days - 1)
            target = f"/v1/earnings/breakdown?by={by}&start={start}"
            parts = await client.ask(target, _BREAKDOWN)
        if as_json:
            sys.stdout.write(json.dumps({"schema": 1, **report, "breakdown": parts}) + "\n")
        else:
            _print(report, parts)

    run_task(work)


async def _show_alone(client: MarketClient, *, as_json: bool) -> None:
    """A machine that belongs to no account yet: its pay waits for one."""
    statement = await client.earnings()
    if as_json:
        sys.stdout.write(json.dumps({"schema": 1, "account_id": None, **statement}) + "\n")
        return
    console = Console(highlight=False)
    console.print(f"[bold]earned {format_usd(statement['earned_nanos'])}[/bold]")
    console.print("This machine belongs to no account, so nothing can be paid out yet.")
    console.print("Run 'piecework join' at a terminal, and approve the code it shows.")


def _print(report: dict[str, Any], parts: dict[str, Any]) -> None:
    console = Console(highlight=False)
    console.print(f"[bold]earned {format_usd(report['earned_nanos'])}[/bold]")
    places = Table.grid(padding=(0, 2))
    places.add_column(justify="left")
    places.add_column(justify="right")
    for name, field, meaning in _PLACES:
        style = "" if report[field] else "dim"
        places.add_row(f"  {name}", format_usd(report[field]), f"[dim]{meaning}[/]", style=style)
    console.print(places)
    for part in report["held"]:
        until = datetime.fromtimestamp(part["until_s"], UTC)
        reason = _REASONS.get(part["reason"], part["reason"])
        console.print(f"  held {format_usd(part['nanos'])}: {reason}, until {until:%Y-%m-%d}")
    console.print()
    console.print(_machines(report["machines"]))
    if parts["data"]:
        console.print()
        console.print(_breakdown(parts))


def _machines(machines: list[dict[str, Any]]) -> Table:
    table = Table("machine", "", "earned", "waiting", "unsettled", box=None)
    for column in table.columns[2:]:
        column.justify = "right"
    for machine in machines:
        amounts = (machine[f"{field}_nanos"] for field in ("earned", "waiting", "unsettled"))
        table.add_row(
            machine["name"], f"[dim]{machine['peer_id'][-8:]}[/]", *map(format_usd, amounts)
        )
    return table


def _breakdown(parts: dict[str, Any]) -> Table:
    table = Table(
        parts["by"], "sessions", "token-layers", "carried", "settled", "unsettled", box=None
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for row in (*parts["data"], parts["total"]):
        table.add_row(
            row["group"],
            f"{row['sessions']:,}",
            f"{row['token_layers']:,}",
            f"{row['bytes_carried'] / 2**20:,.1f} MiB",
            format_usd(row["settled_nanos"]),
            format_usd(row["unsettled_nanos"]),
            style="bold" if row is parts["total"] else "",
        )
    return table
