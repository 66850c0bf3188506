"""A model on this machine alone: one node that is head and only hop, over loopback, no account."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from node.app.drafting import start_drafting
from node.app.fetching import load_or_fetch
from node.app.shard import start_runner
from node.config import EngineOptions, Home
from node.engine.base import ShardSpec
from node.hardware import spare_memory_bytes
from node.head.models import HeadModel
from node.head.service import HeadService
from node.router.lan import LanRouter
from node.serve.admission import OwnAdmission, ServedShard
from node.serve.server import SessionServer
from protocol.announcement import Announcement
from protocol.identity import KeyPair
from protocol.route import Span
from protocol.tensor import WireDtype
from transport.quic.host import QuicHost

__all__ = ["LocalConfig", "local_head"]

LOOPBACK = "127.0.0.1"
ANNOUNCEMENT_LIFETIME_S = 24 * 3600
"""For as long as the program may run: nobody but itself reads it."""


@dataclass(frozen=True, slots=True)
class LocalConfig:
    """What runs the whole model here."""

    home: Path
    model: str
    engine: EngineOptions
    wire_dtype: WireDtype
    kv_tokens: int
    draft: str = ""
    """As GatewayConfig.draft."""


@contextlib.asynccontextmanager
async def local_head(
    config: LocalConfig, tell: Callable[[str], None]
) -> AsyncIterator[tuple[HeadService, str]]:
    """A head over the whole model in this machine, and the model's name; stopped at the end."""
    home = Home(config.home)
    model = await load_or_fetch(config.model, home, tell)
    manifest = model.manifest
    whole = Span(0, manifest.layers)
    async with contextlib.AsyncExitStack() as stack:
        spec = ShardSpec(
            directory=model.directory, span=whole, embeds=True, has_head=True,
            compute_dtype=config.engine.compute_dtype, kv_tokens=config.kv_tokens,
            threads=config.engine.threads, spare_bytes=spare_memory_bytes(),
            device=config.engine.device,
        )  # fmt: skip
        runner, backend = await start_runner(spec, config.engine.backend, manifest)
        stack.push_async_callback(runner.stop)
        hop_host = await QuicHost.start(home.load_or_create_key(), listen_host=LOOPBACK)
        stack.push_async_callback(hop_host.close)
        head_host = await QuicHost.start(KeyPair.generate(), listen_host=LOOPBACK)
        stack.push_async_callback(head_host.close)
        shard = ServedShard(
            hop_host.peer_id, manifest.manifest_hash, whole.start, whole.end, manifest.hidden_size
        )
        admission = OwnAdmission(shard, [head_host.peer_id])
        SessionServer(hop_host, runner, admission, collector=None, backend=backend).start()
        now_s = int(time.time())
        announcement = Announcement(
            peer_id=hop_host.peer_id,
            addresses=tuple(str(address) for address in hop_host.addresses),
            model=manifest.name,
            manifest_hash=manifest.manifest_hash,
            layers=manifest.layers,
            span=whole,
            embeds=True,
            has_head=True,
            backend=backend,
            kv_tokens=config.kv_tokens,
            issued_at_s=now_s,
            expires_at_s=now_s + ANNOUNCEMENT_LIFETIME_S,
        )
        drafting = await start_drafting(config.draft, model, home, config.engine, stack, tell)
        service = HeadService(
            head_host,
            LanRouter(lambda: [announcement]),
            [HeadModel.load(model.directory, manifest, None, now_s=now_s, drafting=drafting)],
            wire_dtype=config.wire_dtype,
            sealed=False,
        )
        stack.push_async_callback(service.close)
        yield service, manifest.name
