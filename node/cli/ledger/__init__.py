"""`piecework ledger`: check the public log. Each command's work has a module of its own."""

from pathlib import Path
from typing import Annotated

import typer

from node.cli.annotations import HomeOption, JsonOption, KeyOption, MarketOption

__all__ = ["ledger_app"]

ledger_app = typer.Typer(help="Check the public ledger.", no_args_is_help=True)

OptionalMarket = Annotated[
    str, typer.Option("--market", envvar="PIECEWORK_MARKET", help="Address of the marketplace.")
]
MarketKey = Annotated[
    str,
    typer.Option(
        "--market-key", help="PeerId that must have signed; else the one this home has pinned."
    ),
]
File = Annotated[Path | None, typer.Option("--file", help="Offline: a saved audit or an export.")]
Save = Annotated[Path | None, typer.Option("--save", help="Keep what was fetched in this file.")]


@ledger_app.command()
def audit(
    market: OptionalMarket = "",
    file: File = None,
    save: Save = None,
    since: Annotated[
        int, typer.Option(min=0, help="Replay only what is newer than this many entries.")
    ] = 0,
    processes: Annotated[
        int, typer.Option(min=1, max=64, help="How many verify signatures at once.")
    ] = 1,
    market_key: MarketKey = "",
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Recompute every provider's pay from the public log, and check it against the books."""
    from node.cli.ledger.audit import audit_ledger

    audit_ledger(
        market=market, file=file, save=save, since=since, processes=processes,
        market_key=market_key, home=home, as_json=json_,
    )  # fmt: skip


@ledger_app.command()
def proof(
    receipt: Annotated[
        str, typer.Argument(help="A lease id, a session or generation id, or a .tlog-proof file.")
    ],
    market: OptionalMarket = "",
    save: Annotated[
        Path | None, typer.Option("--save", help="Directory to keep .tlog-proof files in.")
    ] = None,
    market_key: MarketKey = "",
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Who carried what for how much, with the proof that the log has it; a file is read offline."""
    from node.cli.ledger.proof import prove_receipt

    prove_receipt(
        receipt=receipt, market=market, save=save, market_key=market_key, home=home, as_json=json_
    )


@ledger_app.command()
def balance(
    market: MarketOption,
    key: KeyOption = "",
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Check that what you are owed is counted in what the log says is owed in all."""
    from node.cli.ledger.balance import check_balance

    check_balance(market=market, key=key, home=home, as_json=json_)


@ledger_app.command()
def witness(
    market: MarketOption,
    once: Annotated[bool, typer.Option("--once", help="Look once and leave.")] = False,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Cosign the log's checkpoints, as long as each continues the last. Exit 1 at a fork."""
    from node.cli.ledger.witness import witness_log

    witness_log(market=market, once=once, home=home, as_json=json_)


@ledger_app.command("verify-fork")
def verify_fork(
    file: Annotated[Path, typer.Argument(help="The proof that a witness kept.")],
    market_key: MarketKey = "",
    market: OptionalMarket = "",
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Check, offline, that a marketplace signed two things that contradict. Exit 1 if not."""
    from node.cli.ledger.fork import check_fork

    check_fork(file=file, market_key=market_key, market=market, home=home, as_json=json_)
