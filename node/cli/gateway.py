"""`piecework gateway`."""

import asyncio
from pathlib import Path

from node.app.gateway import run_gateway
from node.cli.options import EngineTexts, choose, engine_options, home_path, network_options
from node.cli.program import fail, run_service, tell
from node.config import GatewayConfig
from protocol.errors import PieceworkError
from protocol.tensor import WireDtype

__all__ = ["serve_gateway"]


def serve_gateway(
    *,
    market: str,
    models: tuple[str, ...],
    api: tuple[str, int],
    home: Path | None,
    engine: EngineTexts,
    wire: str,
    listen: tuple[str, int],
    relays: tuple[str, ...],
    draft: str,
    instalment_tokens: int,
) -> None:
    """Check the options, then serve until told to stop."""
    try:
        config = GatewayConfig(
            home=home_path(home),
            market_url=market,
            models=models,
            api_host=api[0],
            api_port=api[1],
            network=network_options(listen, relays),
            engine=engine_options(engine),
            wire_dtype=choose(WireDtype, wire, "--wire"),
            draft=draft,
            instalment_tokens=instalment_tokens,
        )
    except PieceworkError as error:
        fail(error)

    async def serve(stop: asyncio.Event) -> None:
        await run_gateway(config, stop, tell)

    run_service(serve)
