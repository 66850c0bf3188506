"""A buyer's commands with their options: `login`, `logout`, `whoami`."""

from typing import Annotated

import typer

from node.cli.annotations import HomeOption, JsonOption, MarketOption

__all__ = ["add_account_commands"]


def add_account_commands(app: typer.Typer) -> None:
    """Put them under `piecework`."""
    app.command()(login)
    app.command()(logout)
    app.command()(whoami)


def login(
    market: MarketOption,
    home: HomeOption = None,
    key: Annotated[str, typer.Option(help="Keep this API key; else a new one is asked for.")] = "",
) -> None:
    """Get an API key of a marketplace for this home: a code is shown for you to approve."""
    from node.cli.account import log_in

    log_in(market=market, home=home, key=key)


def logout(market: MarketOption, home: HomeOption = None) -> None:
    """Revoke this home's API key of a marketplace, and forget it."""
    from node.cli.account import log_out

    log_out(market=market, home=home)


def whoami(market: MarketOption, home: HomeOption = None, json_: JsonOption = False) -> None:
    """Whose API key this home has at a marketplace, and what is left to spend."""
    from node.cli.account import show_account

    show_account(market=market, home=home, as_json=json_)
