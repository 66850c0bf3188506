"""`piecework join`."""

import asyncio
from pathlib import Path

from node.app.provider import run_provider
from node.cli.options import EngineTexts, engine_options, home_path, network_options
from node.cli.program import fail, run_service, tell
from node.config import ProviderConfig, parse_bytes
from node.hardware import available_memory_bytes
from protocol.errors import PieceworkError
from protocol.money import Rates
from protocol.route import Span

__all__ = ["join_pool"]


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
    except PieceworkError as error:
        fail(error)

    async def serve(stop: asyncio.Event) -> None:
        await run_provider(config, stop, tell)

    run_service(serve)
