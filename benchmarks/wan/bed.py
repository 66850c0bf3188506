"""A head in this process, hops and lines in processes of their own: a whole route to measure.

    async with Bed.of(EngineChoice("8B"), hops=3) as bed:
        await bed.set(Conditions(delay_ms=30))
        answer = await bed.answer(Request(prompt_tokens=16, max_tokens=40))

Sessions, servers, transport and `generate` are the product's own. The hosts are QuicHosts: at one
address each, so that no path but the lines can ever be found (`check_paths` looks all the same).
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Any, Final

from benchmarks.wan.child import Child
from benchmarks.wan.delay import Conditions
from benchmarks.wan.engines import EngineChoice
from benchmarks.wan.namespace import PORT, front_of, home_of
from benchmarks.wan.peers import HEAD, key_of, route_of
from benchmarks.wan.star import StarSession
from node.engine.runner import EngineRunner
from node.head.drafting.acceptance import Acceptance
from node.head.drafting.base import Drafter, DraftingStatistics
from node.head.drafting.pace import Pace
from node.head.ends import Ends, OpenEnds, SealedEnds
from node.head.generate import WAN_PREFILL_CHUNK_TOKENS, generate
from node.head.session import RouteSession
from node.router.base import RoutePlan
from protocol.route import Span
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype
from transport.quic.host import QuicHost

__all__ = ["GREEDY", "Answer", "Bed", "Request"]

GREEDY: Final = SamplingParameters(temperature_millionths=0)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked, and by which way round."""

    prompt: tuple[int, ...]
    max_tokens: int
    sealed: bool = False
    star: bool = False
    """The client goes to every hop and back, and keeps both ends itself."""
    wire: WireDtype = WireDtype.INT8B32
    eos: frozenset[int] = frozenset()
    chunk_tokens: int = WAN_PREFILL_CHUNK_TOKENS
    drafters: Callable[[], Sequence[Drafter]] = tuple
    """Makes those of one answer."""
    acceptance: Acceptance | None = None
    """What earlier answers have learned of drafts; None: this one begins anew."""
    loops: bool = True
    """Open routes: whether the last hop may feed on by itself."""

    @property
    def has_ends(self) -> bool:
        """Whether the head embeds and samples."""
        return self.sealed or self.star


@dataclass(frozen=True, slots=True)
class Answer:
    """What came, and when: `times_s[i]` since the prompt was sent, of `tokens[i]`."""

    tokens: tuple[int, ...]
    times_s: tuple[float, ...]
    began_s: float = 0.0
    """By `time.monotonic`."""
    drafting: DraftingStatistics = field(default_factory=DraftingStatistics)

    @property
    def first_s(self) -> float:
        return self.times_s[0]

    def rate(self, *, skip: int = 0) -> float:
        """Tokens a second from token `skip` on: the first ones may meet cold windows."""
        span_s = self.times_s[-1] - self.times_s[skip]
        return (len(self.tokens) - 1 - skip) / span_s


class Bed:
    """Made by `of`. Everything is warm after the first answer; hosts keep their connections."""

    def __init__(
        self,
        choice: EngineChoice,
        lines: Child,
        hops: Sequence[Child],
        host: QuicHost,
        ends: EngineRunner,
    ) -> None:
        self.choice = choice
        self.manifest = choice.manifest
        self.conditions = Conditions()
        self._lines = lines
        self._hops = tuple(hops)
        self._host = host
        self._ends = ends

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, choice: EngineChoice, *, hops: int = 3) -> AsyncIterator["Bed"]:
        async with contextlib.AsyncExitStack() as stack:
            lines = await Child.start("benchmarks.wan.lines", str(hops + 1))
            stack.push_async_callback(lines.stop)
            children = []
            for peer in range(1, hops + 1):
                argument = {"peer": peer, "hops": hops, "engine": choice.to_json()}
                child = await Child.start("benchmarks.wan.hop", json.dumps(argument))
                stack.push_async_callback(child.stop)
                children.append(child)
            await asyncio.gather(*(child.ready() for child in (lines, *children)))
            engine = await choice.start(Span(0, 0), embeds=True, has_head=True, ends=True)
            ends = EngineRunner(engine)
            stack.push_async_callback(ends.stop)
            host = await QuicHost.start(key_of(HEAD), listen_host=home_of(HEAD), port=PORT)
            stack.push_async_callback(host.close)
            yield cls(choice, lines, children, host, ends)

    @property
    def hops(self) -> int:
        return len(self._hops)

    async def set(self, conditions: Conditions) -> None:
        """Of every line, from now on."""
        await self._lines.ask({"conditions": asdict(conditions)})
        self.conditions = conditions

    async def counts(self) -> dict[str, dict[str, int]]:
        """Datagrams and bytes of every way, `source-target`, since the start."""
        return await self._lines.ask({"count": True})

    async def reports(self) -> list[dict[str, Any]]:
        """What each hop says of itself since it was asked last."""
        return [await hop.ask({}) for hop in self._hops]

    async def check_paths(self) -> None:
        """Raise unless every connection of every host goes to a front of the lines."""
        fronts = {f"{front_of(peer)}:{PORT}" for peer in range(self.hops + 1)}
        remotes = {connection.remote for connection in self._host.connections()}
        for report in await self.reports():
            remotes |= set(report["remotes"])
        if not remotes <= fronts:
            raise RuntimeError(f"A connection goes round the lines: {remotes - fronts}")

    async def answer(self, request: Request) -> Answer:
        """One whole session, from OPEN to CLOSE; the time to open it is not counted."""
        capacity = len(request.prompt) + request.max_tokens
        ends = self._make_ends(request, capacity)
        session = self._session(request, ends, capacity)
        statistics = DraftingStatistics()
        tokens: list[int] = []
        times: list[float] = []
        try:
            await ends.open()
            await session.open()
            began = monotonic()
            stream = generate(
                session, ends, request.prompt, max_tokens=request.max_tokens, eos=request.eos,
                drafters=request.drafters(),
                pace=Pace(hop_count=self.hops, acceptance=request.acceptance),
                loops=request.loops and not request.has_ends,
                chunk_tokens=request.chunk_tokens, statistics=statistics,
            )  # fmt: skip
            async for token in stream:
                tokens.append(token)
                times.append(monotonic() - began)
        finally:
            await session.close(cancelled=False)
            await ends.close()
            await session.settle()
        return Answer(tuple(tokens), tuple(times), began, statistics)

    def _session(self, request: Request, ends: Ends, capacity: int) -> RouteSession | StarSession:
        manifest = self.manifest
        route = route_of(manifest.name, manifest.layers, self.hops, sealed=request.has_ends)
        if request.star:
            return StarSession(
                self._host, route, manifest, wire_dtype=request.wire, capacity_tokens=capacity
            )
        plan = RoutePlan(os.urandom(16), route, ("bench",) * self.hops)
        return RouteSession(
            self._host, plan, manifest, ends, wire_dtype=request.wire, capacity_tokens=capacity,
            sampling=GREEDY, eos=request.eos,
        )  # fmt: skip

    def _make_ends(self, request: Request, capacity: int) -> Ends:
        if not request.has_ends:
            return OpenEnds()
        return SealedEnds(
            self._ends, wire_dtype=request.wire, sampling=GREEDY, capacity_tokens=capacity
        )
