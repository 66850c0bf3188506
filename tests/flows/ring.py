"""Whole routes in one process: real sessions and servers, a fake network and the fake engine."""

import contextlib
import itertools
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from ledger.lane import Watermark
from ledger.links import LinkEnds, Mismatch, find_mismatches
from node.engine.async_engine import LocalEngine
from node.engine.base import ComputeDtype, ShardSpec
from node.engine.fake import load
from node.engine.runner import EngineRunner
from node.head.ends import Ends, OpenEnds, SealedEnds
from node.head.generate import generate
from node.head.prefix import Prefix, PrefixSecret
from node.head.session import RouteSession
from node.router.base import RoutePlan
from node.serve.admission import Admission, LeaseAdmission, OwnAdmission, ServedShard
from node.serve.collector import Collector
from node.serve.receipt_log import ReceiptLog
from node.serve.server import SessionServer
from protocol.envelope import open_envelope, seal
from protocol.identity import KeyPair
from protocol.lease import Lease
from protocol.model import ModelManifest
from protocol.money import Rates, work_bound
from protocol.receipt import CosignedReceipt, Receipt
from protocol.route import Hop, Route, Span
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype
from tests.node.serve.answers import signed_results
from transport.testing import FakeHost, FakeNetwork

LAYERS, HIDDEN, VOCABULARY, CONTEXT = 8, 16, 97, 2048
RATES = Rates(1_000_000, 4_000_000, 50_000)
GREEDY = SamplingParameters(temperature_millionths=0)
MANIFEST = ModelManifest(
    "fake/model", "fake", LAYERS, HIDDEN, VOCABULARY, CONTEXT, "fp32", "mit", True,
    bytes(32), bytes(32), (),
)  # fmt: skip
PROMPT = tuple((7 * n + 3) % VOCABULARY for n in range(20))


def spans(hop_count: int, layers: int = LAYERS) -> list[Span]:
    """The model cut as evenly as it goes."""
    cuts = [layers * n // hop_count for n in range(hop_count + 1)]
    return [Span(a, b) for a, b in itertools.pairwise(cuts)]


@dataclass(frozen=True)
class RingModel:
    """What runs: its files, its manifest, and how the engine of each hop in turn is loaded."""

    directory: Path
    manifest: ModelManifest
    loads: tuple

    def spec(self, span: Span, *, embeds: bool, has_head: bool) -> ShardSpec:
        return ShardSpec(
            self.directory, span, embeds, has_head, compute_dtype=ComputeDtype.FP32, kv_tokens=8192
        )


class MemorySink:
    """A marketplace that takes every receipt."""

    def __init__(self) -> None:
        self.receipts: list[bytes] = []

    async def hand_in(self, batch):
        self.receipts.extend(batch)
        return signed_results(batch)


@dataclass
class Provider:
    key: KeyPair
    span: Span
    host: FakeHost
    engine: LocalEngine
    runner: EngineRunner
    server: SessionServer
    collector: Collector | None


@dataclass
class Ring:
    """A head and its providers. `market` signs leases; None: a free, private ring."""

    directory: Path
    model: "RingModel"
    network: FakeNetwork
    head_host: FakeHost
    ends_runner: EngineRunner
    market: KeyPair | None
    sealed: bool = True
    providers: list[Provider] = field(default_factory=list)
    spares: list[Provider] = field(default_factory=list)
    """Those that are not on the first route."""
    window_tokens: int = 4
    credit_windows: int = 8
    prefix_secret: PrefixSecret = field(default_factory=PrefixSecret)
    wire: WireDtype = WireDtype.FP32
    sampling: SamplingParameters = GREEDY
    leases: dict[bytes, Lease] = field(default_factory=dict)
    """Every one that was made, by id."""

    def spec(self, span: Span, *, embeds: bool, has_head: bool) -> ShardSpec:
        return self.model.spec(span, embeds=embeds, has_head=has_head)

    def add_provider(self, span: Span, *, step_delay_s: float = 0.0) -> Provider:
        key = KeyPair.generate()
        manifest = self.model.manifest
        load = self.model.loads[len(self.providers) % len(self.model.loads)]
        last = span.end == manifest.layers
        spec = self.spec(
            span, embeds=not self.sealed and span.start == 0, has_head=not self.sealed and last
        )
        engine = LocalEngine(lambda: load(spec), step_delay_s=step_delay_s)
        runner = EngineRunner(engine)
        host = self.network.host(key)
        shard = ServedShard(
            key.peer_id, manifest.manifest_hash, span.start, span.end, manifest.hidden_size
        )
        collector = None
        admission: Admission = OwnAdmission(shard, [self.head_host.peer_id])
        if self.market is not None:
            log = ReceiptLog(self.directory / f"{key.peer_id.short}.log")
            collector = Collector(key, log, MemorySink())
            admission = LeaseAdmission(shard, self.market.peer_id)
        server = SessionServer(host, runner, admission, collector=collector, backend="fake")
        server.start()
        provider = Provider(key, span, host, engine, runner, server, collector)
        self.providers.append(provider)
        return provider

    def plan(self, *, tokens_max: int = 400, now_s: float | None = None) -> RoutePlan:
        session_id = KeyPair.generate().seed[:16]
        hops = [
            Hop(p.key.peer_id, p.span, tuple(str(a) for a in p.host.addresses))
            for p in self.providers
        ]
        route = Route.of(
            self.model.manifest.name, self.model.manifest.layers, hops, sealed=self.sealed
        )
        backends = ("fake",) * len(hops)
        if self.market is None:
            return RoutePlan(session_id, route, backends)
        payer = KeyPair.generate()
        leases = tuple(
            self.lease(route, index, session_id, payer, tokens_max, now_s or time.time())
            for index in range(len(hops))
        )
        envelopes = tuple(seal(lease, self.market).encode() for lease in leases)
        return RoutePlan(session_id, route, backends, leases, envelopes, payer)

    def mismatches(self) -> list[Mismatch]:
        """What neighbours have signed of their links and does not agree, over every receipt."""
        ends = []
        for provider in (*self.providers, *self.spares):
            if provider.collector is None:
                continue
            for data in provider.collector._log.load() + provider.collector._sink.receipts:
                receipt = open_envelope(Receipt, CosignedReceipt.decode(data).envelope)
                if lease := self.leases.get(receipt.lease_id):
                    ends.append(LinkEnds.of(lease, Watermark.of(receipt)))
        return find_mismatches(set(ends))

    def lease(self, route, index, session_id, payer, tokens_max, now_s) -> Lease:
        hops, head = route.hops, self.head_host.peer_id
        work = work_bound(
            layers=len(hops[index].span), prompt_tokens=tokens_max, output_tokens=tokens_max,
            bytes_per_token=self.wire.row_bytes(self.model.manifest.hidden_size),
        )  # fmt: skip
        lease = Lease(
            lease_id=KeyPair.generate().seed[:16],
            session_id=session_id,
            hold_id=session_id,
            hop_index=index,
            hop_count=len(hops),
            payer_key=payer.peer_id.public_key,
            provider=hops[index].peer_id,
            head=head,
            previous=hops[index - 1].peer_id if index else head,
            next=hops[index + 1].peer_id if index + 1 < len(hops) else head,
            manifest_hash=self.model.manifest.manifest_hash,
            span=hops[index].span,
            hidden_size=self.model.manifest.hidden_size,
            wire_dtype=self.wire,
            rates=RATES,
            work_max=work,
            amount_nanos_max=10**9,
            tokens_max=tokens_max,
            window_tokens=self.window_tokens,
            credit_windows=self.credit_windows,
            fee_basis_points=500,
            issued_at_s=int(now_s),
            expires_at_s=int(now_s) + 60,
            settle_by_s=int(now_s) + 600,
        )
        self.leases[lease.lease_id] = lease
        return lease

    def session(
        self,
        plan: RoutePlan,
        ends: Ends | None = None,
        *,
        capacity_tokens: int = 400,
        prefix: Prefix | None = None,
        **continued,
    ) -> RouteSession:
        return RouteSession(
            self.head_host, plan, self.model.manifest, ends or self.ends(), wire_dtype=self.wire,
            capacity_tokens=capacity_tokens, sampling=self.sampling, prefix=prefix, **continued,
        )  # fmt: skip

    def prefix(self, plan: RoutePlan, prompt, tenant: str) -> Prefix:
        manifest_hash = self.model.manifest.manifest_hash
        root = self.prefix_secret.root(tenant, plan, manifest_hash, self.wire)
        return Prefix(root, prompt)

    def ends(self) -> Ends:
        if not self.sealed:
            return OpenEnds()
        return SealedEnds(
            self.ends_runner, wire_dtype=self.wire, sampling=self.sampling, capacity_tokens=400
        )

    async def answer(self, *, max_tokens: int = 24, prompt=PROMPT, eos=frozenset()) -> list[int]:
        """One whole session: open, generate, close, settle."""
        ends = self.ends()
        session = self.session(self.plan(), ends)
        try:
            await ends.open()
            await session.open()
            return [
                token
                async for token in generate(session, ends, prompt, max_tokens=max_tokens, eos=eos)
            ]
        finally:
            await session.close(cancelled=False)
            await ends.close()
            await session.settle()


def fake_model(directory: Path) -> RingModel:
    config = {
        "model_type": "fake", "num_hidden_layers": LAYERS, "hidden_size": HIDDEN,
        "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    return RingModel(directory, MANIFEST, (load,))


@contextlib.asynccontextmanager
async def make_ring(
    directory: Path,
    hop_count: int,
    *,
    paid: bool = False,
    sealed: bool = True,
    model: RingModel | None = None,
    wire: WireDtype = WireDtype.FP32,
    **network,
):
    """A ring of `hop_count` providers (0: the test adds its own), stopped at the end."""
    model = model or fake_model(directory)
    net = FakeNetwork(**network)
    ends = model.spec(Span(0, 0), embeds=True, has_head=True)
    ring = Ring(
        directory, model, net, net.host(), EngineRunner(LocalEngine(lambda: model.loads[0](ends))),
        KeyPair.generate() if paid else None, sealed=sealed, wire=wire,
    )  # fmt: skip
    for span in spans(hop_count, model.manifest.layers) if hop_count else ():
        ring.add_provider(span)
    try:
        yield ring
        # whatever befell it, honest hops have signed the same of every link between them
        assert ring.mismatches() == []
    finally:
        for provider in (*ring.providers, *ring.spares):
            await provider.host.close()
            await provider.runner.stop()
            if provider.collector:
                await provider.collector.close(timeout_s=1)
        await ring.head_host.close()
        await ring.ends_runner.stop()
