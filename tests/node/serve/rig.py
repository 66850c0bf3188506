"""Real servers over a fake network and the fake engine."""

import asyncio
import contextlib
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from node.engine.async_engine import LocalEngine
from node.engine.base import ComputeDtype, Output, ShardSpec, StepItem
from node.engine.fake import load
from node.engine.runner import EngineRunner
from node.serve.admission import Admission, OwnAdmission, ServedShard
from node.serve.collector import Collector
from node.serve.replay_log import ReplayBudget
from node.serve.server import SessionServer
from protocol.identity import KeyPair
from protocol.route import Span
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype
from transport.testing import FakeHost, FakeNetwork

LAYERS, HIDDEN, VOCABULARY, CONTEXT = 8, 16, 97, 2048
CAPACITY = 600
MODEL = bytes(32)
GREEDY = SamplingParameters(temperature_millionths=0)
PROMPT = tuple((7 * n + 3) % VOCABULARY for n in range(20))
WAIT_S = 10.0
"""What a test waits at most for something that should come at once."""


@dataclass(eq=False)
class Provider:
    key: KeyPair
    span: Span
    host: FakeHost
    engine: LocalEngine
    runner: EngineRunner
    server: SessionServer
    budget: ReplayBudget
    collector: Collector | None

    @property
    def peer_id(self):
        return self.key.peer_id

    @property
    def addresses(self):
        return tuple(str(address) for address in self.host.addresses)

    @property
    def statistics(self):
        return self.engine._engine.statistics()


@dataclass
class Rig:
    """`providers` by name: one of the route is named by its number."""

    directory: Path
    network: FakeNetwork
    head_host: FakeHost
    sealed: bool
    wire: WireDtype = WireDtype.FP32
    made: list[Provider] = field(default_factory=list)

    def provider(
        self,
        span: Span,
        *,
        step_delay_s: float = 0.0,
        admission: Admission | None = None,
        collector: Collector | None = None,
        budget_bytes: int = 1 << 20,
    ) -> Provider:
        key = KeyPair.generate()
        spec = ShardSpec(
            self.directory, span, not self.sealed and span.start == 0,
            not self.sealed and span.end == LAYERS, compute_dtype=ComputeDtype.FP32,
            kv_tokens=8192,
        )  # fmt: skip
        engine = LocalEngine(lambda: load(spec), step_delay_s=step_delay_s)
        runner, host = EngineRunner(engine), self.network.host(key)
        shard = ServedShard(key.peer_id, MODEL, span.start, span.end, HIDDEN)
        budget = ReplayBudget(budget_bytes)
        server = SessionServer(
            host, runner, admission or OwnAdmission(shard, [self.head_host.peer_id]),
            collector=collector, backend="fake", replay_budget=budget,
        )  # fmt: skip
        server.start()
        made = Provider(key, span, host, engine, runner, server, budget, collector)
        self.made.append(made)
        return made

    def providers(self, hop_count: int, **options) -> list[Provider]:
        return [self.provider(span, **options) for span in spans(hop_count)]


def spans(hop_count: int) -> list[Span]:
    cuts = [LAYERS * n // hop_count for n in range(hop_count + 1)]
    return [Span(a, b) for a, b in itertools.pairwise(cuts)]


@contextlib.asynccontextmanager
async def make_rig(
    directory: Path, *, sealed: bool = False, wire: WireDtype = WireDtype.FP32, **network
):
    config = {
        "model_type": "fake", "num_hidden_layers": LAYERS, "hidden_size": HIDDEN,
        "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    net = FakeNetwork(**network)
    rig = Rig(directory, net, net.host(), sealed, wire)
    try:
        yield rig
    finally:
        await rig.head_host.close()
        for provider in rig.made:
            await provider.host.close()
            await provider.runner.stop()
            if provider.collector:
                await provider.collector.close(timeout_s=1)


def expected_tokens(directory: Path, prompt, count: int) -> list[int]:
    """What the uncut model answers."""
    engine = load(
        ShardSpec(
            directory, Span(0, LAYERS), True, True, compute_dtype=ComputeDtype.FP32,
            kv_tokens=8192,
        )
    )  # fmt: skip
    engine.open(1, capacity_tokens=CAPACITY, sampling=GREEDY)
    tokens, rows, position = [], list(prompt), 0
    while len(tokens) < count:
        item = StepItem(
            1, position, len(rows), 1, Output.TOKENS, WireDtype.FP32,
            tokens=np.asarray(rows, np.int32),
        )  # fmt: skip
        (result,) = engine.step([item])
        position += len(rows)
        tokens.append(int(result.tokens[0]))
        rows = tokens[-1:]
    return tokens


async def wait_for(condition, *, timeout_s: float = WAIT_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def wait_freed(*providers: Provider) -> None:
    """Until these hold no session, no KV and no log any more."""
    for provider in providers:
        await wait_for(lambda p=provider: p.server.sessions == 0)
        await wait_for(lambda p=provider: p.statistics.sequences == 0)
        assert provider.budget.used_bytes == 0


def task_names() -> list[str]:
    """Tasks of node/serve that are under way."""
    found = []
    for task in asyncio.all_tasks():
        code = getattr(task.get_coro(), "cr_code", None)
        if (
            code is not None
            and "node/serve" in code.co_filename
            and "tests" not in code.co_filename
        ):
            found.append(code.co_qualname)
    return found
