"""`piecework gateway`: a node without layers that sells the pool to any OpenAI client."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict

from node.api.application import create_api
from node.api.local_status import StatusPage
from node.api.readiness import Readiness, ReadyState
from node.api.serving import serve_api
from node.api.settings import ApiSettings
from node.app.drafting import start_drafting
from node.app.fetching import fetch_for_pool, fetch_missing
from node.app.network import network_view, start_host
from node.app.shard import start_runner
from node.config import GatewayConfig, Home
from node.engine.base import ShardSpec
from node.hardware import spare_memory_bytes
from node.head.models import HeadModel
from node.head.service import HeadService
from node.market_client import MarketClient
from node.router.market import MarketRouter
from protocol.route import Span
from transport.base import Host

__all__ = ["run_gateway", "start_head"]

NO_LAYERS = Span(0, 0)
DRAIN_TIMEOUT_S = 30.0
"""On SIGTERM: answers under way get this long."""


async def run_gateway(
    config: GatewayConfig, stop: asyncio.Event, tell: Callable[[str], None]
) -> None:
    """Serve the API until `stop` is set, then drain. Raises PieceworkError when it cannot start."""
    home = Home(config.home)
    async with contextlib.AsyncExitStack() as stack:
        service, models, host = await start_head(config, stack, tell)
        readiness = Readiness(ReadyState.READY)
        api = create_api(
            service,
            readiness=readiness,
            settings=ApiSettings(require_key=True, any_origin=True),
        )

        async def status() -> dict[str, object]:
            return {
                "role": "gateway",
                "peer_id": str(host.peer_id),
                "market": config.market_url,
                "models": [model.manifest.name for model in models],
                "answers": len(service.answers),
                "ends": {
                    model.manifest.name: asdict(await model.ends.statistics())
                    for model in models
                    if model.ends is not None
                },
                **network_view(host),
            }

        async with serve_api(api, config.api_host, config.api_port) as url:
            page = await StatusPage.start(home.status_path, status, api_url=f"{url}/v1")
            stack.push_async_callback(page.close)
            tell(f"gateway ready: base URL {url}/v1; Ctrl-C drains and leaves")
            await stop.wait()
            readiness.state = ReadyState.DRAINING
            tell(f"leaving: {len(service.answers)} answers to end")
            await _drain(service)


async def start_head(
    config: GatewayConfig, stack: contextlib.AsyncExitStack, tell: Callable[[str], None]
) -> tuple[HeadService, list[HeadModel], Host]:
    """The head behind the API: identity, marketplace, host, and the ends of every model."""
    home = Home(config.home)
    key = home.load_or_create_key()
    client = await stack.enter_async_context(MarketClient(config.market_url, key))
    terms = await client.terms()
    home.pin_market(client.url, terms.peer_id)
    host = await start_host(key, config.network, terms.relays, tell)
    stack.push_async_callback(host.close)
    models = [await _start_model(config, client, name, stack, tell) for name in config.models]
    router = MarketRouter(client, terms.peer_id, key.peer_id)
    service = HeadService(
        host, router, models,
        wire_dtype=config.wire_dtype, instalment_tokens=config.instalment_tokens,
    )  # fmt: skip
    stack.push_async_callback(service.close)
    return service, models, host


async def _start_model(
    config: GatewayConfig,
    client: MarketClient,
    reference: str,
    stack: contextlib.AsyncExitStack,
    tell: Callable[[str], None],
) -> HeadModel:
    """The ends of one model, fetched where they are not here."""
    home = Home(config.home)
    model = await fetch_for_pool(reference, home, client, tell)
    await fetch_missing(model, NO_LAYERS, home, client, tell, ends=True)
    tell(f"loads the ends of {model.manifest.name}")
    spec = ShardSpec(
        directory=model.directory, span=NO_LAYERS, embeds=True, has_head=True,
        compute_dtype=config.engine.compute_dtype, threads=config.engine.threads,
        spare_bytes=spare_memory_bytes(), device=config.engine.device,
    )  # fmt: skip
    runner, _ = await start_runner(spec, config.engine.backend, model.manifest)
    stack.push_async_callback(runner.stop)
    drafting = await start_drafting(config.draft, model, home, config.engine, stack, tell)
    return HeadModel.load(
        model.directory, model.manifest, runner, now_s=int(time.time()), drafting=drafting
    )


async def _drain(service: HeadService) -> None:
    """Let running answers end by themselves for a while."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            await service.wait_idle()
