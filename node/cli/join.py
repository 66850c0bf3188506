"""`piecework join`."""

import asyncio
import os
import sys
from pathlib import Path

from node.account_client import AccountClient
from node.app.joining import bind_machine, waits_for_owner
from node.app.provider import run_provider
from node.cli.country import ask_country, country_option
from node.cli.device_screen import TerminalScreen
from node.cli.options import EngineTexts, engine_options, home_path, network_options
from node.cli.program import fail, run_service, run_task, tell
from node.config import Home, ProviderConfig, parse_bytes
from node.hardware import available_memory_bytes
from protocol.errors import PieceworkError
from protocol.money import Rates
from protocol.route import Span

__all__ = ["join_pool"]

WHY = "Sign in to say whose this machine is. It then earns for your account."


def join_pool(
    *,
    market: str,
    model: str,
    memory: str,
    span: str,
    home: Path | None,
    engine: EngineTexts,
    kv_tokens: int,
    rates: tuple[int, int, int],
    listen: tuple[str, int],
    relays: tuple[str, ...],
    maps_port: bool,
    share_weights: bool,
    login: bool,
    country: str,
) -> None:
    """Check the options, then serve until told to stop."""
    try:
        config = ProviderConfig(
            home=home_path(home),
            market_url=market,
            model=model,
            memory_bytes=available_memory_bytes() if memory == "auto" else parse_bytes(memory),
            span=Span.from_text(span) if span else None,
            engine=engine_options(engine),
            rates=Rates(*rates),
            network=network_options(listen, relays, maps_port=maps_port),
            kv_tokens=kv_tokens,
            share_weights=share_weights,
        )
        paid_in = country_option(country)
    except PieceworkError as error:
        fail(error)
    asks = login and sys.stderr.isatty()
    if asks and not paid_in and sys.stdin.isatty():
        paid_in = _ask_country(config)

    async def serve(stop: asyncio.Event) -> None:
        await _bind(config, stop, asks=asks, country=paid_in)
        if stop.is_set():
            return
        await run_provider(config, stop, tell)

    run_service(serve)


def _ask_country(config: ProviderConfig) -> str:
    """Where its owner is paid, of a machine that is nobody's yet; else empty.

    Asked before anything runs: a question would hold up the loop that serves.
    """

    async def waits() -> bool:
        home = Home(config.home)
        async with AccountClient(config.market_url, home.load_or_create_key()) as client:
            return await waits_for_owner(client, home)

    try:
        return ask_country(os.environ) if run_task(waits) else ""
    except PieceworkError as error:
        fail(error)


async def _bind(config: ProviderConfig, stop: asyncio.Event, *, asks: bool, country: str) -> None:
    """Whose this machine is; at a terminal somebody may say so."""
    home = Home(config.home)
    screen = TerminalScreen(WHY) if asks else None
    async with AccountClient(config.market_url, home.load_or_create_key()) as client:
        await bind_machine(client, home, screen, stop, tell, country=country)
