"""How long a step takes: what the engine's speed benchmarks share.

All is computed by one thread, greedy, and seconds are that thread's processor seconds: what else
runs on the machine is not counted, though it still takes its share of the memory's bandwidth and
of the caches. So compare only what was measured side by side, step by step or round by round.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.row import Row
from node.engine.base import ComputeDtype, Engine, Output, ShardSpec, StepItem, StepResult
from node.engine.torch_backend import load
from protocol.route import Span
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype

__all__ = [
    "LAYERS",
    "PREFILL_ROWS",
    "PROMPT_TOKENS",
    "STEPS",
    "WARM_STEPS",
    "decode_step_s",
    "generate_s",
    "load_shards",
    "prefill_s",
    "prompts_of",
    "ratio",
    "shortest_s",
]

LAYERS = 28
PROMPT_TOKENS = 32
PREFILL_ROWS = 256
"""Prompt tokens of all sequences together: a chunk as the scheduler cuts them."""
STEPS = 12
WARM_STEPS = 2
CAPACITY_TOKENS = 512
SPARE_BYTES = 2 << 30
"""What the engine may take for speed: as a node does that was given memory to spare."""
GREEDY = SamplingParameters(temperature_millionths=0)

seconds = time.thread_time


def load_shards(directory: Path, dtype: ComputeDtype, count: int = 1) -> list[Engine]:
    """The whole model in `count` shards, for one thread of this CPU."""
    bounds = [round(LAYERS * index / count) for index in range(count + 1)]
    return [
        load(
            ShardSpec(
                directory,
                Span(start, end),
                embeds=start == 0,
                has_head=end == LAYERS,
                compute_dtype=dtype,
                spare_bytes=SPARE_BYTES,
                device="cpu",
            )
        )
        for start, end in itertools.pairwise(bounds)
    ]


def prompts_of(batch: int, tokens: int) -> Any:
    """(batch, tokens) int32, the same every time."""
    return np.random.default_rng(0).integers(5, 30_000, (batch, tokens), dtype=np.int32)


def decode_step_s(batch: int, *sides: Sequence[Engine]) -> list[float]:
    """Median seconds of one decode step of `batch` sequences through each side's shards.

    The sides take turns step by step, so that what disturbs one disturbs the other.
    """
    _open(batch, sides)
    prompts = prompts_of(batch, PROMPT_TOKENS)
    tokens = [_step(shards, 0, list(prompts)) for shards in sides]
    spent: list[list[float]] = [[] for _ in sides]
    for step in range(WARM_STEPS + STEPS):
        for index, shards in enumerate(sides):
            started = seconds()
            tokens[index] = _step(shards, PROMPT_TOKENS + step, tokens[index])
            spent[index].append(seconds() - started)
    _close(batch, sides)
    return [statistics.median(each[WARM_STEPS:]) for each in spent]


def prefill_s(batch: int, *sides: Sequence[Engine]) -> list[float]:
    """Seconds from PREFILL_ROWS prompt tokens of `batch` sequences to their first tokens."""
    prompts = prompts_of(batch, PREFILL_ROWS // batch)
    spent = []
    for shards in sides:
        _open(batch, [shards])
        started = seconds()
        _step(shards, 0, list(prompts))
        spent.append(seconds() - started)
        _close(batch, [shards])
    return spent


def generate_s(model: Any, batch: int, prompt_tokens: int, count: int) -> float:
    """Seconds in which transformers' generate makes `count` greedy tokens a sequence."""
    ids = torch.from_numpy(prompts_of(batch, prompt_tokens)).long()
    started = seconds()
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=1,
    )
    return seconds() - started


def shortest_s(call: Callable[[], object], times: int) -> float:
    spent = []
    for _ in range(times):
        started = seconds()
        call()
        spent.append(seconds() - started)
    return min(spent)


def ratio(figure: str, workload: str, rounds: Sequence[Sequence[float]], mark: str = "") -> Row:
    """The median of the rounds' ratios of two measurements."""
    ratios = sorted(above / below for above, below in rounds)
    spread = f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
    return Row(figure, workload, round(statistics.median(ratios), 3), "x", mark, spread)


def _open(batch: int, sides: Sequence[Sequence[Engine]]) -> None:
    for shard in itertools.chain(*sides):
        for sequence_id in range(batch):
            shard.open(sequence_id, capacity_tokens=CAPACITY_TOKENS, sampling=GREEDY)


def _close(batch: int, sides: Sequence[Sequence[Engine]]) -> None:
    for shard in itertools.chain(*sides):
        for sequence_id in range(batch):
            shard.close(sequence_id)


def _step(shards: Sequence[Engine], position: int, tokens: list[Any]) -> list[Any]:
    given = tokens
    for shard in shards:
        is_first, is_last = shard is shards[0], shard is shards[-1]
        results = shard.step(
            [
                StepItem(
                    sequence_id,
                    position,
                    count=len(rows),
                    wanted=1 if is_last else len(rows),
                    output=Output.TOKENS if is_last else Output.HIDDEN,
                    wire_dtype=WireDtype.BF16,
                    tokens=rows if is_first else None,
                    hidden=None if is_first else rows,
                )
                for sequence_id, rows in enumerate(given)
            ]
        )
        given = []
        for result in results:
            assert isinstance(result, StepResult), result
            given.append(result.tokens if is_last else result.hidden)
    return given
