"""What a long prompt does to the sessions that decode beside it, with and without cutting it up.

A torch worker process, one thread, on a small random llama in bf16 (33 M weights): four sessions
decode without a pause while a prompt of 2048 tokens comes as four steps, all sent ahead. Time
between tokens is taken while the prompt runs. The two schedulers take turns, prompt by prompt.
`python -m benchmarks.engine_stall` prints the rows.
"""

import asyncio
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.row import Row
from node.engine.base import ComputeDtype, Output, ShardSpec, StepItem
from node.engine.runner import EngineRunner
from node.engine.scheduler import Scheduler, SchedulerLimits
from node.engine.worker import EngineWorker
from protocol.limits import STEP_TOKENS_MAX
from protocol.route import Span
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype
from tools.tiny_checkpoints import make_checkpoint

__all__ = ["rows"]

LAYERS = 8
SHAPE = {
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "initializer_range": 0.02,
    "max_position_embeddings": 4096,
}
DECODERS = 4
PROMPT_TOKENS = 4 * STEP_TOKENS_MAX
CAPACITY_TOKENS = 2048 + 64
ROUNDS = 4
ALONE_TOKENS = 40
"""Tokens a decoder draws before the prompt comes: its pace alone."""
DECODER_TOKENS = 2000
WORKLOAD = "33 M llama bf16, 1 thread, 4 decoding, a prompt of 2048"
GREEDY = SamplingParameters(temperature_millionths=0)
WHOLE = SchedulerLimits(decode_stall_max_s=math.inf)


@dataclass
class Spent:
    """Seconds, over all rounds of one scheduler."""

    alone: list[float] = field(default_factory=list)
    """Between tokens before the prompt."""
    beside: list[float] = field(default_factory=list)
    """Between tokens while it runs."""
    prompts: list[float] = field(default_factory=list)


def rows() -> list[Row]:
    """All rows; under a minute."""
    whole, parted = asyncio.run(_measure())
    return [*_rows("in parts", parted), *_rows("whole", whole), *_ratios(whole, parted)]


async def _measure() -> tuple[Spent, Spent]:
    with tempfile.TemporaryDirectory(prefix="piecework-bench-") as folder:
        directory = make_checkpoint(
            Path(folder), "llama", layers=LAYERS, dtype="bfloat16", max_shard_size="50MB", **SHAPE
        )
        spec = ShardSpec(
            directory, Span(0, LAYERS), embeds=True, has_head=True, compute_dtype=ComputeDtype.BF16
        )
        worker = await EngineWorker.start(spec, backend="torch")
        try:
            spent = (Spent(), Spent())
            schedulers = (Scheduler(WHOLE), Scheduler())
            runners = [EngineRunner(worker, scheduler) for scheduler in schedulers]
            for turn in range(2 * (ROUNDS + 1)):
                # the first of each warms up, and teaches the scheduler what rows cost
                into = spent[turn % 2] if turn > 1 else Spent()
                await _round(runners[turn % 2], into)
        finally:
            await worker.stop()
    return spent


async def _round(runner: EngineRunner, spent: Spent) -> None:
    """Decoders begin, the prompt comes, and all end when it has run."""
    ids = range(DECODERS + 1)
    for sequence_id in ids:
        await runner.open(sequence_id, capacity_tokens=CAPACITY_TOKENS, sampling=GREEDY)
    times: list[list[float]] = [[] for _ in range(DECODERS)]
    over = asyncio.Event()
    decoding = [asyncio.create_task(_decode(runner, i, times[i], over)) for i in range(DECODERS)]
    while min(map(len, times)) < ALONE_TOKENS:
        await asyncio.sleep(0.001)
    started = time.perf_counter()
    await asyncio.gather(
        *(
            runner.submit(_item(DECODERS, position, STEP_TOKENS_MAX))
            for position in range(0, PROMPT_TOKENS, STEP_TOKENS_MAX)
        )
    )
    ended = time.perf_counter()
    over.set()
    await asyncio.gather(*decoding)
    for sequence_id in ids:
        await runner.close(sequence_id)
    spent.prompts.append(ended - started)
    for drawn in times:
        for before, after in itertools.pairwise(drawn):
            if after <= started:
                spent.alone.append(after - before)
            elif before < ended:
                spent.beside.append(after - before)


async def _decode(
    runner: EngineRunner, sequence_id: int, drawn: list[float], over: asyncio.Event
) -> None:
    for position in range(DECODER_TOKENS):
        await runner.submit(_item(sequence_id, position, 1))
        drawn.append(time.perf_counter())
        if over.is_set():
            return


def _item(sequence_id: int, position: int, count: int) -> StepItem:
    return StepItem(
        sequence_id,
        position,
        count=count,
        wanted=1,
        output=Output.TOKENS,
        wire_dtype=WireDtype.BF16,
        tokens=np.full(count, 5, np.int32),
    )


def _rows(name: str, spent: Spent) -> Iterable[Row]:
    cuts = statistics.quantiles(spent.beside, n=100)
    alone_ms = statistics.median(spent.alone) * 1000
    spread = f"{alone_ms:.1f} ms without the prompt"
    for percent in (50, 99):
        figure = f"prompt {name}: time between tokens beside it, p{percent}"
        yield Row(figure, WORKLOAD, cuts[percent - 1] * 1000, "ms", spread=spread)
    tokens_per_s = PROMPT_TOKENS / statistics.median(spent.prompts)
    yield Row(f"prompt {name}: prefill beside decodes", WORKLOAD, tokens_per_s, "tokens/s")


def _ratios(whole: Spent, parted: Spent) -> Iterable[Row]:
    p99 = [statistics.quantiles(spent.beside, n=100)[98] for spent in (parted, whole)]
    figure = "in parts against whole: time between tokens, p99"
    yield Row(figure, WORKLOAD, p99[0] / p99[1], "x", "<= 0.5 x")
    ratios = sorted(w / p for w, p in zip(whole.prompts, parted.prompts, strict=True))
    figure = "in parts against whole: prefill tokens per second while others decode"
    spread = f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
    yield Row(figure, WORKLOAD, statistics.median(ratios), "x", spread=spread)


if __name__ == "__main__":
    for row in rows():
        print(f"{row.figure} [{row.workload}]: {row.value:.3g} {row.unit} ({row.spread})")
