"""`piecework-relay`: run a relay, or ask a running one how it is.

Talk goes to stderr, data to stdout. Heavy packages are imported inside the commands, so that
`--help` answers at once.
"""

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocol.errors import PieceworkError

if TYPE_CHECKING:
    from relay.config import RelayConfig

__all__ = ["main"]

STATUS_TIMEOUT_S = 3.0
"""The page is on this machine."""
STATUS_BYTES_MAX = 4 * 2**20
"""A page of a few KiB, and `--url` may name anything."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

Home = Annotated[Path | None, typer.Option(help="Directory of the key.", file_okay=False)]
Host = Annotated[str | None, typer.Option(help="Address to listen on. [default: 0.0.0.0]")]
Port = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="TCP port of the control plane. [default: 4001]"),
]
UdpPort = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="UDP port of the forwarder. [default: 4001]"),
]
OtherUdpPort = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="Second UDP port, of the reflector. [default: 4002]"),
]
AnnounceHost = Annotated[
    str | None,
    typer.Option(help="Public address, where this machine does not have it itself (1:1 NAT)."),
]
StatusHost = Annotated[
    str | None, typer.Option(help="Address of the status page. [default: 127.0.0.1]")
]
StatusPort = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Port of the status page. [default: 8480]")
]
Drain = Annotated[
    float | None,
    typer.Option(min=0, max=3600, help="Seconds circuits may run on after SIGTERM. [default: 10]"),
]


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    home: Home = None,
    host: Host = None,
    port: Port = None,
    udp_port: UdpPort = None,
    other_udp_port: OtherUdpPort = None,
    announce_host: AnnounceHost = None,
    status_host: StatusHost = None,
    status_port: StatusPort = None,
    drain_s: Drain = None,
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
) -> None:
    """Run a Piecework relay: it lends circuits to nodes behind NATs and introduces them."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(installed("piecework"))
        raise typer.Exit
    if context.invoked_subcommand is None:
        serve(
            home, host, port, udp_port, other_udp_port, announce_host, status_host, status_port,
            drain_s,
        )  # fmt: skip


@app.command()
def serve(
    home: Home = None,
    host: Host = None,
    port: Port = None,
    udp_port: UdpPort = None,
    other_udp_port: OtherUdpPort = None,
    announce_host: AnnounceHost = None,
    status_host: StatusHost = None,
    status_port: StatusPort = None,
    drain_s: Drain = None,
) -> None:
    """Run the relay until it is stopped (what plain `piecework-relay` does)."""
    from relay.app import run_relay
    from relay.config import read_config

    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    config = read_config(
        home=home,
        host=host,
        port=port,
        udp_port=udp_port,
        other_udp_port=other_udp_port,
        announce_host=announce_host,
        status_host=status_host,
        status_port=status_port,
        drain_s=drain_s,
    )
    run_relay(config, on_started=_announce)


@app.command()
def status(
    home: Home = None,
    url: Annotated[str, typer.Option(help="Status page of a relay elsewhere.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what the running relay of this home does, and how near its limits are."""
    report = _read_status(url or _status_url(home))
    if as_json:
        typer.echo(json.dumps(report))
    else:
        _print(report)


def main() -> None:
    """Entry point of `piecework-relay`."""
    try:
        app()
    except PieceworkError as error:
        _say(f"error: {error}")
        raise SystemExit(1) from None


def _announce(addresses: tuple[str, ...], status_url: str, config: "RelayConfig") -> None:
    """What a person copies, once everything listens."""
    _say("Piecework relay; nodes reach it at any of:")
    for address in addresses:
        typer.echo(address)
    _say(f"Status at {status_url}/status, metrics at {status_url}/metrics")
    _say(f"Key in {config.home}")


def _status_url(home: Path | None) -> str:
    """Where the running relay of that home said that its page is."""
    from relay.config import STATUS_FILE, read_config
    from relay.errors import RelayUnreachable

    path = read_config(home=home).home / STATUS_FILE
    try:
        return str(json.loads(path.read_text())["status_url"])
    except (OSError, ValueError, KeyError, TypeError):
        raise RelayUnreachable(
            f"No relay of {path.parent} is running.", hint="Start one, or give its --home or --url."
        ) from None


def _read_status(url: str) -> dict[str, Any]:
    import httpx

    from relay.errors import RelayUnreachable

    try:
        body = bytearray()
        with (
            httpx.Client(timeout=STATUS_TIMEOUT_S, trust_env=False) as client,
            # what is at that address may be anybody, and a few compressed bytes may be gigabytes
            client.stream(
                "GET", f"{url.rstrip('/')}/status", headers={"accept-encoding": "identity"}
            ) as page,
        ):
            page.raise_for_status()
            for chunk in page.iter_raw():
                body += chunk
                if len(body) > STATUS_BYTES_MAX:
                    raise ValueError(f"more than {STATUS_BYTES_MAX} bytes")
        answer = json.loads(body)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError) as error:
        raise RelayUnreachable(
            f"No relay answers at {url}: {error}.", hint="Is it running? See its log."
        ) from None
    if not isinstance(answer, dict) or "limits_near" not in answer:
        raise RelayUnreachable(f"What answers at {url} is not a relay.")
    return answer


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"[bold]relay[/bold] {report['peer_id']}, {report['state']}")
    for address in report["addresses"]:
        console.print(f"  {address}", soft_wrap=True)
    table = Table("limit", "used", "of", "", box=None)
    for fill in report["limits_near"]:
        share = f"{fill['share']:.0%}"
        table.add_row(fill["limit"], f"{fill['used']:,}", f"{fill['of']:,}", share)
    console.print(table)
    for name in ("circuits", "forwarder"):
        console.print(f"  {name:<10} {report[name]['bytes']:,} bytes carried")
    for reason, count in sorted(report["refused"].items(), key=lambda item: -item[1]):
        console.print(f"  refused    {count:,} × {reason}")


def _say(text: str) -> None:
    typer.echo(text, err=True)
