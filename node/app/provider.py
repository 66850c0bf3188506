"""`piecework join`: identity, span, engine, offer, heartbeats; and the reverse on the way out."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

from node.api.local_status import StatusPage
from node.app.fetching import fetch_for_pool, fetch_missing
from node.app.household import Household, HouseholdAdmission
from node.app.network import network_view, start_host, traffic_bytes
from node.app.shard import LoadedModel, start_runner
from node.app.witness import LogWitness, witnessing
from node.config import Home, ProviderConfig
from node.engine.base import ShardSpec
from node.engine.runner import EngineRunner
from node.errors import ConfigInvalid, MarketUnreachable
from node.hardware import layers_that_fit, memory_for_layers
from node.household.limits import with_floor
from node.market_client import MarketClient, MarketTerms
from node.models.peer_server import share_weights
from node.serve.admission import LeaseAdmission, ServedShard
from node.serve.answer_log import AnswerLog
from node.serve.collector import Collector
from node.serve.receipt_log import ReceiptLog
from node.serve.server import SessionServer
from protocol.envelope import seal
from protocol.errors import PieceworkError
from protocol.identity import KeyPair
from protocol.offer import Offer
from protocol.route import Span
from transport.base import Host
from transport.congestion.share import UploadShare

__all__ = ["run_provider"]

OFFER_LIFETIME_S = 60
"""How long buyers may still be sent here after this node has died without a word."""
HEARTBEAT_S = 15.0
"""Three heartbeats may be lost before the offer expires."""
DRAIN_TIMEOUT_S = 30.0
"""On leaving: sessions under way get this long."""
HAND_IN_TIMEOUT_S = 5.0
SESSIONS_MAX = 64

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What is running, for heartbeats and the status page."""

    config: ProviderConfig
    key: KeyPair
    client: MarketClient
    terms: MarketTerms
    model: LoadedModel
    span: Span
    backend: str
    runner: EngineRunner
    host: Host
    server: SessionServer
    collector: Collector
    household: Household


async def run_provider(
    config: ProviderConfig, stop: asyncio.Event, tell: Callable[[str], None]
) -> None:
    """Serve until `stop` is set, then drain. Raises PieceworkError when it cannot start."""
    home = Home(config.home)
    key = home.load_or_create_key()
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(MarketClient(config.market_url, key))
        terms = await client.terms()
        home.pin_market(client.url, terms.peer_id)
        model = await fetch_for_pool(config.model, home, client, tell)
        await client.register_manifest(model.manifest)
        span = await _choose_span(config, client, model)
        await fetch_missing(model, span, home, client, tell)
        tell(f"{key.peer_id.short} loads layers {span} of {model.manifest.name}")
        spec = ShardSpec(
            directory=model.directory, span=span, embeds=False, has_head=False,
            compute_dtype=config.engine.compute_dtype, kv_tokens=config.kv_tokens,
            threads=config.engine.threads, device=config.engine.device,
            spare_bytes=_spare_bytes(config, model, span),
        )  # fmt: skip
        runner, backend = await start_runner(spec, config.engine.backend, model.manifest)
        stack.push_async_callback(runner.stop)
        upload = UploadShare()
        host = await start_host(key, config.network, terms.relays, tell, upload=upload)
        stack.push_async_callback(host.close)
        household = Household(home, upload, lambda: traffic_bytes(host))
        household.look()
        stack.callback(household.close)
        answers = AnswerLog(home.answers_path, market=terms.peer_id, provider=key.peer_id)
        collector = Collector(key, ReceiptLog(home.receipts_path), client, answers)
        collector.start()
        stack.push_async_callback(collector.close, timeout_s=HAND_IN_TIMEOUT_S)
        shard = ServedShard(
            key.peer_id, model.manifest.manifest_hash, span.start, span.end,
            model.manifest.hidden_size,
        )  # fmt: skip
        server = SessionServer(
            host,
            runner,
            HouseholdAdmission(LeaseAdmission(shard, terms.peer_id), household),
            collector=collector,
            backend=backend,
        )
        server.start()
        if config.share_weights:
            share_weights(host, model.manifest, model.directory, span)
            tell(f"sharing the weights of layers {span} with whoever asks")
        parts = _Parts(
            config, key, client, terms, model, span, backend, runner, host, server, collector,
            household,
        )  # fmt: skip
        page = await StatusPage.start(home.status_path, lambda: _status(parts))
        stack.push_async_callback(page.close)
        witness = LogWitness(home, key, client, terms.peer_id, clock=time.time)
        await stack.enter_async_context(witnessing(witness, tell))
        await _serve(parts, stop, tell)


async def _serve(parts: _Parts, stop: asyncio.Event, tell: Callable[[str], None]) -> None:
    """Offer and renew until told to stop; then withdraw and let sessions end."""
    await _offer(parts)
    if reasons := parts.household.decision.reasons:
        tell(f"no work is taken yet: {'; '.join(reasons)}")
    tell(
        f"serving layers {parts.span} with {parts.backend} at {parts.host.addresses[0]}; "
        "Ctrl-C drains and leaves"
    )
    tasks = [
        asyncio.create_task(_renew_for_ever(parts)),
        asyncio.create_task(parts.household.run(lambda _: _follow(parts), tell)),
    ]
    try:
        await stop.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        tell(f"leaving: {parts.server.sessions} sessions to end")
        await _quietly(parts.client.withdraw_offers)
        await parts.server.drain(timeout_s=DRAIN_TIMEOUT_S)


async def _renew_for_ever(parts: _Parts) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        await _quietly(lambda: _renew(parts))


async def _renew(parts: _Parts) -> None:
    """Renew the offer while the engine runs: a node that cannot serve lets it expire."""
    await parts.runner.statistics()
    await _offer(parts)


async def _follow(parts: _Parts) -> None:
    """The household takes work again, or no more: the market is told at once."""
    takes_work = parts.household.decision.takes_work
    await _quietly(lambda: _offer(parts) if takes_work else parts.client.withdraw_offers())


async def _offer(parts: _Parts) -> None:
    """Sign an offer from now on. The sequence is the time in ms, so it grows over restarts.

    None while the household takes no work: the last one was withdrawn.
    """
    if not parts.household.decision.takes_work:
        return
    now_s = time.time()
    offer = Offer(
        provider=parts.key.peer_id,
        sequence=int(now_s * 1000),
        addresses=tuple(str(address) for address in parts.host.addresses[:16]),
        model=parts.model.manifest.name,
        manifest_hash=parts.model.manifest.manifest_hash,
        span=parts.span,
        backend=parts.backend,
        compute_dtype=parts.config.engine.compute_dtype,
        rates=with_floor(parts.config.rates, parts.household.limits),
        sessions_max=SESSIONS_MAX,
        kv_tokens=parts.config.kv_tokens,
        issued_at_s=int(now_s),
        expires_at_s=int(now_s) + OFFER_LIFETIME_S,
    )
    await parts.client.offer(seal(offer, parts.key))


async def _quietly(action: Callable[[], Awaitable[None]]) -> None:
    """The marketplace may be away for a while: serving goes on, the next heartbeat tries again."""
    try:
        await action()
    except PieceworkError as error:
        logger.warning("%s", error)


async def _choose_span(config: ProviderConfig, client: MarketClient, model: LoadedModel) -> Span:
    manifest = model.manifest
    if config.span is not None:
        if not len(config.span) or config.span.end > manifest.layers:
            raise ConfigInvalid(
                f"{manifest.name} has layers 0:{manifest.layers}, so it has no span {config.span}."
            )
        return config.span
    layers_max = layers_that_fit(
        config.memory_bytes,
        model.layer_sizes,
        stored_element_bytes=model.stored_element_bytes,
        dtype=config.engine.compute_dtype,
        kv_bytes=model.kv_bytes_per_token_layer(config.engine.compute_dtype),
        kv_tokens=config.kv_tokens,
    )
    if layers_max == 0:
        raise ConfigInvalid(
            f"Not one layer of {manifest.name} fits into {config.memory_bytes / 2**20:.0f} MiB.",
            hint="Give more with --memory, or serve fewer tokens with --kv-tokens.",
        )
    span = await client.place(manifest.manifest_hash, layers_max)
    if not 0 < len(span) <= layers_max or span.end > manifest.layers:
        raise MarketUnreachable(
            f"The marketplace gives layers {span}, of {manifest.layers} and at most {layers_max}.",
            hint="Name them yourself with --span START:END.",
        )
    return span


def _spare_bytes(config: ProviderConfig, model: LoadedModel, span: Span) -> int:
    """What is left of the memory that was given, once the span and its KV are in."""
    needed = memory_for_layers(
        model.layer_sizes[span.start : span.end],
        stored_element_bytes=model.stored_element_bytes,
        dtype=config.engine.compute_dtype,
        kv_bytes=model.kv_bytes_per_token_layer(config.engine.compute_dtype),
        kv_tokens=config.kv_tokens,
    )
    return max(0, config.memory_bytes - needed)


async def _status(parts: _Parts) -> dict[str, object]:
    statistics = await parts.runner.statistics()
    return {
        "role": "provider",
        "peer_id": str(parts.key.peer_id),
        "market": parts.client.url,
        "model": parts.model.manifest.name,
        "span": str(parts.span),
        "backend": parts.backend,
        "compute_dtype": parts.config.engine.compute_dtype,
        "addresses": [str(address) for address in parts.host.addresses],
        "sessions": parts.server.sessions,
        "receipts_pending": parts.collector.pending,
        "receipts_refused": parts.collector.refused,
        "engine": asdict(statistics),
        "connections": [
            {"peer_id": str(c.peer_id), "path_kind": c.path_kind, "remote": c.remote}
            for c in parts.host.connections()
        ],
        "household": parts.household.view(),
        "recent": [asdict(report) for report in parts.server.reports],
        **network_view(parts.host),
    }
