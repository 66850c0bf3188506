"""`piecework status`: the node of this home, and a marketplace's pool."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from node.app.running import NotRunning, read_status
from node.cli.machines import cluster_panel
from node.cli.options import home_path
from node.cli.program import run_task
from node.market_client import MarketClient
from protocol.identity import KeyPair

__all__ = ["network_lines", "read_status", "show_status"]


def show_status(*, home: Path | None, market: str, as_json: bool) -> None:
    """Print what is known; exit 1 when neither a node nor a marketplace could be asked."""
    path = home_path(home)

    async def work() -> None:
        report: dict[str, Any] = {"schema": 1, "node": None, "pool": None}
        try:
            report["node"] = await read_status(path)
        except NotRunning:
            if not market:
                raise
        if market:
            async with MarketClient(market, KeyPair.generate()) as client:
                report["pool"] = {"offers": await client.offers(), "models": await client.models()}
        if as_json:
            sys.stdout.write(json.dumps(report) + "\n")
        else:
            _print(report)

    run_task(work)


def _print(report: dict[str, Any]) -> None:
    console = Console()
    if node := report["node"]:
        console.print(f"[bold]{node['role']}[/bold] {node['peer_id']}")
        for name in ("model", "span", "backend", "compute_dtype", "market", "api_url"):
            if name in node:
                console.print(f"  {name:<14} {node[name]}", highlight=False)
        for name in ("sessions", "answers", "receipts_pending"):
            if name in node:
                console.print(f"  {name:<14} {node[name]}", highlight=False)
        _print_refused(console, node.get("receipts_refused", {}))
        if household := node.get("household"):
            reasons = "; ".join(household["reasons"])
            console.print(f"  {'household':<14} {reasons or 'takes work'}", highlight=False)
        if network := node.get("network"):
            for name, line in network_lines(network):
                console.print(f"  {name:<14} {line}", highlight=False)
        if node.get("machines"):
            console.print(cluster_panel(node))
        if node.get("recent"):
            console.print(_sessions(node["recent"]))
    if pool := report["pool"]:
        console.print(_offers(pool["offers"]))


def _print_refused(console: Console, refused: dict[str, int]) -> None:
    """Receipts that the marketplace has refused, by its reason."""
    for reason, count in refused.items():
        console.print(f"  {'refused':<14} {count}: {reason}", highlight=False)


def network_lines(network: dict[str, Any]) -> list[tuple[str, str]]:
    """Relays with what is wrong with them, the NAT, and how many connections go by which path."""
    lines = [
        ("relay", f"{relay['relay'].split('/p2p/')[0]} {relay['state']} {relay['reason']}".rstrip())
        for relay in network["relays"]
    ]
    if network["nat"]["observed"]:
        seen = ", ".join(network["nat"]["observed"])
        lines.append(("outside", f"{seen} (NAT mapping: {network['nat']['mapping']})"))
    kinds = Counter(connection["path_kind"] for connection in network["connections"])
    if kinds:
        text = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        lines.append(("connections", text))
    return lines


def _sessions(recent: list[dict[str, Any]]) -> Table:
    table = Table("session", "hop", "tokens", "bytes in", "bytes out", "nanos", "end", box=None)
    for session in recent[-10:]:
        table.add_row(
            session["session_id"][:8],
            str(session["hop_index"]),
            str(session["tokens"]),
            f"{session['bytes_received']:,}",
            f"{session['bytes_sent']:,}",
            f"{session['amount_nanos']:,}",
            session["outcome"],
        )
    return table


def _offers(offers: list[dict[str, Any]]) -> Table:
    table = Table(
        "provider", "model", "layers", "engine", box=None, title="pool", title_style="bold"
    )
    for offer in sorted(offers, key=lambda offer: (offer["model"], offer["span"]["start"])):
        span = f"{offer['span']['start']}:{offer['span']['end']}"
        table.add_row(offer["peer_id"][-8:], offer["model"], span, offer["backend"])
    return table
