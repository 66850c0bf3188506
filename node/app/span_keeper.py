"""The span this machine holds, as the cluster's plan wants it: fetched, loaded, served, let go."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from node.app.room import spare_bytes
from node.app.shard import LoadedModel, start_runner
from node.app.speed import SpeedMeter
from node.cluster.gossip import Gossip
from node.config import UpConfig
from node.engine.base import ShardSpec
from node.engine.runner import EngineRunner, RunnerStatistics
from node.serve.admission import MembersAdmission, ServedShard
from node.serve.server import SessionServer
from protocol.errors import EngineError, PieceworkError
from protocol.machine import Holding, MachineState
from protocol.route import Span
from transport.base import Host

__all__ = ["SpanKeeper"]

DRAIN_TIMEOUT_S: Final = 30.0
"""Before a span is let go sessions under way get this long."""
LOOK_S: Final = 2.0
"""How often the engine is asked how it fares."""

ENGINE_AWAY_MAX_S: Final = 60.0
"""Its runner starts a dead engine again a few times; after this long it will not come back."""

FetchSpan = Callable[[Span], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Served:
    span: Span
    runner: EngineRunner
    server: SessionServer
    holding: Holding


class SpanKeeper:
    """Runs until cancelled; one change at a time, and always towards what was wanted last."""

    def __init__(
        self,
        host: Host,
        model: LoadedModel,
        config: UpConfig,
        gossip: Gossip,
        fetch: FetchSpan,
        tell: Callable[[str], None],
    ) -> None:
        self._host = host
        self._model = model
        self._config = config
        self._gossip = gossip
        self._fetch = fetch
        self._tell = tell
        self._wanted: Span | None = None
        self._news = asyncio.Event()
        self._served: _Served | None = None
        self._meter = SpeedMeter()
        self._away_since: float | None = None
        """Since when the engine has not answered."""
        self.statistics: RunnerStatistics | None = None
        """The engine's, of a moment ago; None while none runs."""

    @property
    def sessions(self) -> int:
        return self._served.server.sessions if self._served else 0

    def want(self, span: Span | None) -> None:
        """The plan's newest word."""
        self._wanted = span
        self._news.set()

    async def run(self) -> None:
        while True:
            self._news.clear()
            held = self._served.span if self._served else None
            if self._wanted != held:
                await self._change()
                continue
            if self._served is not None:
                await self._look(self._served)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S if self._served else None):
                    await self._news.wait()

    async def close(self) -> None:
        """Let sessions end, then let go of everything."""
        await self._let_go()

    async def _change(self) -> None:
        await self._let_go()
        span = self._wanted
        if span is None:
            self._gossip.update(state=MachineState.WAITING, done_percent=0)
            return
        try:
            await self._take_while_wanted(span)
        except (PieceworkError, OSError) as error:
            self._give_up(f"layers {span} could not be loaded: {error}")

    async def _take_while_wanted(self, span: Span) -> None:
        """Fetching and loading take minutes, and a plan can change in that time."""
        taking = asyncio.create_task(self._take(span))
        try:
            while self._wanted == span and not taking.done():
                news = asyncio.create_task(self._news.wait())
                await asyncio.wait({taking, news}, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
                self._news.clear()
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
        if not taking.cancelled():
            taking.result()

    async def _take(self, span: Span) -> None:
        """Fetch, load and serve a span."""
        model, config = self._model, self._config
        manifest = model.manifest
        self._gossip.update(state=MachineState.FETCHING, done_percent=0)
        await self._fetch(span)
        self._tell(f"loading layers {span} of {manifest.name}")
        self._gossip.update(state=MachineState.LOADING)
        spec = ShardSpec(
            directory=model.directory, span=span, embeds=span.start == 0,
            has_head=span.end == manifest.layers, compute_dtype=config.engine.compute_dtype,
            kv_tokens=config.kv_tokens, threads=config.engine.threads,
            spare_bytes=spare_bytes(
                model, span, config.memory_bytes, config.engine.compute_dtype, config.kv_tokens
            ),
            device=config.engine.device,
        )  # fmt: skip
        runner, backend = await start_runner(spec, config.engine.backend, manifest)
        shard = ServedShard(
            self._host.peer_id, manifest.manifest_hash, span.start, span.end, manifest.hidden_size
        )
        admission = MembersAdmission(shard, self._gossip.membership.is_member)
        server = SessionServer(self._host, runner, admission, collector=None, backend=backend)
        server.start()
        holding = Holding(span, backend, config.kv_tokens)
        self._served = _Served(span, runner, server, holding)
        self._meter = SpeedMeter()
        self._away_since = None
        self._gossip.update(state=MachineState.SERVING, holding=holding)
        self._tell(f"serving layers {span} with {backend}")

    async def _let_go(self) -> None:
        """Out of every new route at once; then sessions end, then the engine."""
        served, self._served = self._served, None
        self.statistics = None
        self._gossip.update(holding=None, rows_per_s=0)
        if served is not None:
            if served.server.sessions:
                self._tell(f"letting {served.server.sessions} sessions end")
            await served.server.drain(timeout_s=DRAIN_TIMEOUT_S)
            await served.runner.stop()

    async def _look(self, served: _Served) -> None:
        """How fast it is, for the plan and the tables; and whether it lives.

        An engine that died is started again by its runner: until then nothing is routed here.
        """
        now = asyncio.get_running_loop().time()
        try:
            self.statistics = await served.runner.statistics()
        except EngineError as error:
            self.statistics = None
            self._gossip.update(state=MachineState.LOADING, holding=None, rows_per_s=0)
            self._away_since = self._away_since or now
            if now > self._away_since + ENGINE_AWAY_MAX_S:
                await self._let_go()
                self._give_up(f"the engine of layers {served.span} is gone: {error}")
            return
        self._away_since = None
        speed = self._meter.measure(self.statistics.engine, len(served.span))
        changes = {"token_layers_per_s": speed} if speed else {}
        self._gossip.update(
            state=MachineState.SERVING,
            holding=served.holding,
            rows_per_s=round(self.statistics.rows_per_s),
            **changes,
        )

    def _give_up(self, reason: str) -> None:
        """The others have to: this machine offers no room until it is started anew."""
        self._tell(reason)
        self._wanted = None
        self._gossip.update(state=MachineState.FAILED, room=None, holding=None)
