"""How fast the torch engine decodes, against transformers and against the machine's memory.

The model has the shape of `llama-0.5b` in tools/tiny_checkpoints.py: 474 M weights are read for a
token, 948 MB in bf16. Every ratio is taken inside one round, the two sides one after the other, and
the median of the rounds is the figure. All is computed by one thread, greedy, from prompts of 32
tokens, and seconds are that thread's processor seconds: what else runs on the machine is not
counted, though it still takes its share of the memory's bandwidth and of the caches.
`python -m benchmarks.engine_decode` prints the rows.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benchmarks.row import Row
from node.engine.base import ComputeDtype, Engine, Output, ShardSpec, StepItem, StepResult
from node.engine.torch_backend import load
from protocol.route import Span
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype
from tools.tiny_checkpoints import make_checkpoint

__all__ = ["rows"]

LAYERS = 28
PROMPT_TOKENS = 32
STEPS = 12
WARM_STEPS = 2
CAPACITY_TOKENS = 128
REPEATS = 5
BANDWIDTH_BYTES = 1 << 30
SPARE_BYTES = 2 << 30
"""What the engine may take for speed: as a node does that was given memory to spare."""
BATCH_MARKS = {1: ">= 1.6 x", 8: ">= 1.5 x", 32: ">= 1.3 x"}
_seconds = time.thread_time
GREEDY = SamplingParameters(temperature_millionths=0)


def rows(repeats: int = REPEATS) -> list[Row]:
    """All rows; about five minutes for five repeats."""
    with tempfile.TemporaryDirectory(prefix="piecework-bench-") as folder:
        directory = make_checkpoint(Path(folder), "llama-0.5b")
        torch.set_num_threads(1)
        whole = _load_shards(directory, 1)
        reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
        reference.eval()
        found = list(_against_generate(whole, reference, repeats))
        read_bytes = sum(
            weight.nbytes
            for name, weight in reference.named_parameters()
            if "embed_tokens" not in name
        )
        del reference
        found += _against_bandwidth(whole, read_bytes, repeats)
        found += _against_parts(whole, _load_shards(directory, 3), repeats)
    return found


def _against_generate(whole: Sequence[Engine], reference: Any, repeats: int) -> Iterable[Row]:
    for batch, mark in BATCH_MARKS.items():
        rounds = [
            (_generate_step_s(reference, batch), *_decode_step_s(batch, whole))
            for _ in range(repeats)
        ]
        yield _ratio("decode against transformers generate", _workload(batch), rounds, mark)


def _against_bandwidth(whole: Sequence[Engine], read_bytes: int, repeats: int) -> Iterable[Row]:
    memory = torch.ones(BANDWIDTH_BYTES // 4)
    shares, growth = [], []
    for _ in range(repeats):
        bound_s = read_bytes * _shortest_s(memory.amax, 3) / memory.nbytes
        (one_s,) = _decode_step_s(1, whole)
        (many_s,) = _decode_step_s(32, whole)
        shares.append((bound_s, one_s))
        growth.append((32 * one_s, many_s))
    figure = "share of read bandwidth / weight bytes"
    yield _ratio(figure, _workload(1), shares, ">= 0.85")
    figure = "batch 32 against batch 1, tokens per second"
    yield _ratio(figure, _workload(32), growth, ">= 18 x")


def _against_parts(whole: Sequence[Engine], parts: Sequence[Engine], repeats: int) -> Iterable[Row]:
    for batch in (1, 8):
        rounds = [tuple(_decode_step_s(batch, parts, whole)) for _ in range(repeats)]
        figure = "3 shards against unsplit, time per step"
        yield _ratio(figure, _workload(batch), rounds, "<= 1.02 x")


def _workload(batch: int) -> str:
    return f"llama-0.5b bf16, 1 thread, batch {batch}"


def _load_shards(directory: Path, count: int) -> list[Engine]:
    bounds = [round(LAYERS * index / count) for index in range(count + 1)]
    return [
        load(
            ShardSpec(
                directory,
                Span(start, end),
                embeds=start == 0,
                has_head=end == LAYERS,
                compute_dtype=ComputeDtype.BF16,
                spare_bytes=SPARE_BYTES,
            )
        )
        for start, end in itertools.pairwise(bounds)
    ]


def _decode_step_s(batch: int, *sides: Sequence[Engine]) -> list[float]:
    """Median seconds of one decode step of `batch` sequences through each side's shards.

    The sides take turns step by step, so that what disturbs one disturbs the other.
    """
    prompts = np.random.default_rng(0).integers(5, 30_000, (batch, PROMPT_TOKENS), dtype=np.int32)
    for shard in itertools.chain(*sides):
        for sequence_id in range(batch):
            shard.open(sequence_id, capacity_tokens=CAPACITY_TOKENS, sampling=GREEDY)
    tokens = [_step(shards, 0, list(prompts)) for shards in sides]
    spent: list[list[float]] = [[] for _ in sides]
    for step in range(WARM_STEPS + STEPS):
        for index, shards in enumerate(sides):
            started = _seconds()
            tokens[index] = _step(shards, PROMPT_TOKENS + step, tokens[index])
            spent[index].append(_seconds() - started)
    for shard in itertools.chain(*sides):
        for sequence_id in range(batch):
            shard.close(sequence_id)
    return [statistics.median(seconds[WARM_STEPS:]) for seconds in spent]


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


def _generate_step_s(model: Any, batch: int) -> float:
    """Seconds of one step of generate: the difference of a long and a short run."""
    ids = torch.randint(5, 30_000, (batch, PROMPT_TOKENS))

    def run(count: int) -> float:
        started = _seconds()
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=1,
        )
        return _seconds() - started

    short = run(WARM_STEPS)
    return (run(WARM_STEPS + STEPS) - short) / STEPS


def _shortest_s(call: Callable[[], object], times: int) -> float:
    spent = []
    for _ in range(times):
        started = _seconds()
        call()
        spent.append(_seconds() - started)
    return min(spent)


def _ratio(figure: str, workload: str, rounds: Sequence[tuple[float, ...]], mark: str) -> Row:
    ratios = sorted(above / below for above, below in rounds)
    spread = f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
    return Row(figure, workload, round(statistics.median(ratios), 3), "x", mark, spread)


if __name__ == "__main__":
    for row in rows():
        print(f"{row.figure} [{row.workload}]: {row.value} {row.unit} ({row.spread}) {row.mark}")
