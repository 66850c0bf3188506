"""`piecework-market`: run a marketplace, or check its books.

Talk goes to stderr, data to stdout. Heavy packages are imported inside the commands, so that
`--help` answers at once.
"""

import contextlib
import json
import logging
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from marketplace.ledger_pages.cli import log_app
from protocol.errors import PieceworkError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from marketplace.config import MarketConfig
    from marketplace.market import Market

__all__ = ["main"]

HOST = "127.0.0.1"
PORT = 8471
BACKLOG = 2048
GRACE_S = 10
"""How long requests under way may take after SIGTERM."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(log_app, name="log")
operator_app = typer.Typer(help="The people who run this marketplace.", no_args_is_help=True)
app.add_typer(operator_app, name="operator")

Home = Annotated[
    Path | None, typer.Option(help="Directory of the key and the database.", file_okay=False)
]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any.")]
Network = Annotated[str | None, typer.Option(help="Name of the pool.")]
Fee = Annotated[int | None, typer.Option(min=0, max=10_000, help="Hundredths of a percent.")]
Window = Annotated[int | None, typer.Option(min=1, help="Seconds between settlements.")]
Relays = Annotated[
    list[str] | None,
    typer.Option("--relay", help="A relay of the pool, as it prints itself; again for more."),
]


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    home: Home = None,
    host: Host = HOST,
    port: Port = PORT,
    network: Network = None,
    fee_basis_points: Fee = None,
    settlement_window_s: Window = None,
    relay: Relays = None,
) -> None:
    """Run a Piecework marketplace: quotes, leases, receipts and the ledger behind them."""
    if context.invoked_subcommand is None:
        serve(home, host, port, network, fee_basis_points, settlement_window_s, relay)


@app.command()
def serve(
    home: Home = None,
    host: Host = HOST,
    port: Port = PORT,
    network: Network = None,
    fee_basis_points: Fee = None,
    settlement_window_s: Window = None,
    relay: Relays = None,
    jobs: Annotated[
        bool, typer.Option(help="Do the jobs here; without, `piecework-market work` must run.")
    ] = True,
) -> None:
    """Run the marketplace until it is stopped (what plain `piecework-market` does)."""
    import uvicorn

    from marketplace.app import create_app
    from marketplace.collecting import freeze_startup
    from marketplace.jobs import JOBS

    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    config = _config(home, network, fee_basis_points, settlement_window_s, relay)
    # what concerns this process alone it does in any case
    application = create_app(config, jobs=JOBS if jobs else ())
    market = application.state.market
    listener = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    _say(f"Piecework marketplace '{config.network}' at http://{shown}:{listener.getsockname()[1]}")
    _say(f"PeerId {market.key.peer_id}")
    _say(f"Data in {config.home}")
    if market.processor.name == "test":
        _say("WARNING: the test processor is on; top-ups are not real money.")
    server = uvicorn.Server(
        uvicorn.Config(
            application, log_config=None, access_log=False, timeout_graceful_shutdown=GRACE_S
        )
    )
    freeze_startup()
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how one stops it; all is drained
        server.run(sockets=[listener])
    if not server.started:
        raise typer.Exit(1)


@app.command()
def work(
    home: Home = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A job to do; again for more; without it all of them.")
    ] = None,
    network: Network = None,
    settlement_window_s: Window = None,
) -> None:
    """Do the marketplace's jobs (settle, publish, payouts …) in a process of their own."""
    import asyncio

    from marketplace.app import create_market
    from marketplace.jobs import chosen_jobs
    from marketplace.working import run_jobs

    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    jobs = chosen_jobs(only)
    market = create_market(_config(home, network, None, settlement_window_s, None))
    _say(f"Doing {', '.join(job.name for job in jobs)} for '{market.config.network}'.")
    asyncio.run(run_jobs(market, jobs))


@app.command()
def check(
    home: Home = None,
    network: Network = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Sums alone; without, every row and every signature.")
    ] = False,
    processes: Annotated[int, typer.Option(min=1, max=64, help="That verify signatures.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that the books are in order; exit code 1 if they are not."""
    from marketplace.app import create_market
    from marketplace.books import check_books, check_sums
    from marketplace.config import DATABASE_FILE
    from marketplace.errors import MarketError

    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    config = _config(home, network, None, None, None)
    if not config.database_url and not (config.home / DATABASE_FILE).exists():
        raise MarketError(f"There is no marketplace in {config.home}.", hint="Give its --home.")
    market = create_market(config)
    try:
        with market.database.reading() as session:
            violations = (
                check_sums(session) if quick else check_books(session, market, processes=processes)
            )
    finally:
        market.database.close()
    if as_json:
        found = [{"invariant": v.invariant, "detail": v.detail} for v in violations]
        typer.echo(json.dumps({"ok": not violations, "violations": found}))
    elif violations:
        for violation in violations:
            typer.echo(f"{violation.invariant}: {violation.detail}")
    else:
        typer.echo("The books are in order.")
    if violations:
        raise typer.Exit(1)


@operator_app.command()
def add(
    email: Annotated[str, typer.Argument(help="Whose address.")],
    home: Home = None,
) -> None:
    """Print a token with which somebody becomes an operator, once, within a day."""
    from marketplace.users.operators import invite_operator

    with _market_at(home) as market:
        token = invite_operator(market, email)
    _say(f"For {email} alone: POST it to /v1/users with the address and a password, or, signed in,")
    _say("to /v1/invitations. Operators must enrol an authenticator (POST /v1/me/totp).")
    typer.echo(token)


@operator_app.command()
def mail(home: Home = None) -> None:
    """Take the letters that wait and print each as a line of JSON, for a mailer to send.

    A letter is printed once. Nothing else sends them.
    """
    from marketplace.users.operators import hand_over_letters

    with _market_at(home) as market:
        for letter in hand_over_letters(market):
            typer.echo(json.dumps(letter))


@contextlib.contextmanager
def _market_at(home: Path | None) -> "Iterator[Market]":
    """The marketplace of a home, its tables brought up to date, without its HTTP."""
    from marketplace.app import create_market

    market = create_market(_config(home, None, None, None, None))
    try:
        market.database.upgrade()
        yield market
    finally:
        market.database.close()


def main() -> None:
    """Entry point of `piecework-market`."""
    try:
        app()
    except PieceworkError as error:
        _say(f"error: {error}")
        raise SystemExit(1) from None


def _config(
    home: Path | None,
    network: str | None,
    fee_basis_points: int | None,
    settlement_window_s: int | None,
    relays: list[str] | None,
) -> "MarketConfig":
    """Settings from the environment; what stands on the command line goes first."""
    from marketplace.config import read_config

    return read_config(
        home=home,
        network=network,
        fee_basis_points=fee_basis_points,
        settlement_window_s=settlement_window_s,
        relays=tuple(relays) if relays else None,
    )


def _listen(host: str, port: int) -> socket.socket:
    """Bind before anything is promised; raises MarketError with the reason."""
    from marketplace.errors import MarketError

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise MarketError(
            f"Cannot listen on {host}:{port}: {error.strerror}.", hint="Choose another --port."
        ) from None


def _say(text: str) -> None:
    typer.echo(text, err=True)
