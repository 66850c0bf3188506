"""`piecework login`, `logout` and `whoami`: the buyer's key of a home."""

import asyncio
import json
import sys
from pathlib import Path

from node.account_client import AccountClient
from node.account_file import AccountFile, StoredAccount
from node.app.joining import wait_for_approval
from node.cli.device_screen import TerminalScreen
from node.cli.options import home_path
from node.cli.program import run_service, run_task, tell
from node.config import Home
from node.errors import ConfigInvalid, KeyRefused
from protocol.money import format_usd

__all__ = ["log_in", "log_out", "show_account", "stored_key"]

WHY = "Sign in to give this home an API key. It spends your account's balance."


def log_in(*, market: str, home: Path | None, key: str) -> None:
    """Keep a key that works; one that was there is left to be revoked by its owner."""
    path = home_path(home)

    async def work(stop: asyncio.Event) -> None:
        node = Home(path)
        async with AccountClient(market, node.load_or_create_key()) as client:
            node.pin_market(client.url, (await client.terms()).peer_id)
            if key:
                account = await _account_of(client, key)
            else:
                answer = await wait_for_approval(client, "key", TerminalScreen(WHY), stop)
                if answer is None:
                    return
                account = StoredAccount(
                    answer.account_id, answer.account_name, answer.key_id, answer.api_key
                )
            AccountFile(path).store(client.url, account)
            tell(f"signed in at {client.url} for the account '{account.account_name}'")

    run_service(work)


def log_out(*, market: str, home: Path | None) -> None:
    """Revoke first, then forget: a key that is forgotten could not be revoked any more."""
    path = home_path(home)

    async def work() -> None:
        account = _require(path, market)
        async with AccountClient(market, Home(path).load_or_create_key()) as client:
            try:
                await client.end_key(account.api_key)
            except KeyRefused:
                tell("the key was revoked already")
            AccountFile(path).remove(market)
            tell(f"signed out at {client.url}")

    run_task(work)


def show_account(*, market: str, home: Path | None, as_json: bool) -> None:
    """Account, key and balance, on stdout."""
    path = home_path(home)

    async def work() -> None:
        account = _require(path, market)
        async with AccountClient(market, Home(path).load_or_create_key()) as client:
            shown = await client.account(account.api_key)
        report = {
            "schema": 1,
            "market": client.url,
            "account_id": shown["account_id"],
            "account_name": shown["name"],
            "key_id": account.key_id,
            "balance": shown["balance"],
        }
        if as_json:
            sys.stdout.write(json.dumps(report) + "\n")
            return
        available = format_usd(shown["balance"]["available_nanos"])
        sys.stdout.write(
            f"{report['account_name']} ({report['account_id']}) at {client.url}\n"
            f"  key        {account.key_id}\n  available  {available}\n"
        )

    run_task(work)


def stored_key(home: Path | None, market: str) -> str:
    """The key that `piecework login` kept for a marketplace; empty where there is none."""
    account = AccountFile(home_path(home)).find(market) if market else None
    return "" if account is None else account.api_key


async def _account_of(client: AccountClient, key: str) -> StoredAccount:
    """Whose key it is. Raises KeyRefused."""
    shown = await client.account(key)
    key_id = (key.removeprefix("pw_live_").partition("_")[0])[:8]
    return StoredAccount(str(shown["account_id"]), str(shown["name"]), key_id, key)


def _require(home: Path, market: str) -> StoredAccount:
    account = AccountFile(home).find(market)
    if account is None:
        raise ConfigInvalid(
            f"Nobody is signed in at {market} in this home.",
            hint=f"Run: piecework login --market {market}",
        )
    return account
