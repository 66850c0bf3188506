"""How fast the torch engine decodes and prefills, against transformers and the machine's memory.

The model has the shape of `llama-0.5b` in tools/tiny_checkpoints.py: 474 M weights are read for a
token, 948 MB in bf16. Every ratio is taken inside one round, its sides one after the other, and the
median of the rounds is the figure. The engine's weights are bf16, int8 or int4; generate's are bf16
in every row. `python -m benchmarks.engine_decode` prints the rows.
"""

import itertools
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.engine_steps import (
    PREFILL_ROWS,
    PROMPT_TOKENS,
    STEPS,
    WARM_STEPS,
    decode_step_s,
    generate_s,
    load_shards,
    prefill_s,
    ratio,
    shortest_s,
)
from benchmarks.row import Row
from node.engine.base import ComputeDtype, Engine
from tools.tiny_checkpoints import make_checkpoint

__all__ = ["rows"]

REPEATS = 3
BANDWIDTH_BYTES = 1 << 30
BATCHES = (1, 8, 32)
DTYPES = (ComputeDtype.BF16, ComputeDtype.INT8, ComputeDtype.INT4)
DECODE_MARKS = {
    (ComputeDtype.BF16, 1): ">= 1.6 x",
    (ComputeDtype.BF16, 8): ">= 1.5 x",
    (ComputeDtype.BF16, 32): ">= 1.3 x",
}
SHARE_MARKS = {ComputeDtype.BF16: ">= 0.85", ComputeDtype.INT4: ">= 0.60"}
GROWTH_MARKS = {ComputeDtype.BF16: ">= 18 x"}

Engines = Mapping[ComputeDtype, Sequence[Engine]]
Rounds = dict[tuple[ComputeDtype, int], list[tuple[float, float]]]


def rows(repeats: int = REPEATS) -> list[Row]:
    """All rows; about eight minutes for five repeats."""
    with tempfile.TemporaryDirectory(prefix="piecework-bench-") as folder:
        directory = make_checkpoint(Path(folder), "llama-0.5b")
        torch.set_num_threads(1)
        engines = {dtype: load_shards(directory, dtype) for dtype in DTYPES}
        reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
        reference.eval()
        found = [*_decode(engines, reference, repeats), *_prefill(engines, reference, repeats)]
        read_bytes = _read_bytes(engines, reference)
        del reference
        found += _against_bandwidth(engines, read_bytes, repeats)
        whole = engines[ComputeDtype.BF16]
        parts = load_shards(directory, ComputeDtype.BF16, 3)
        found += _against_parts(whole, parts, repeats)
    return found


def _decode(engines: Engines, reference: Any, repeats: int) -> Iterable[Row]:
    rounds: Rounds = {key: [] for key in itertools.product(DTYPES, BATCHES)}
    for batch, _ in itertools.product(BATCHES, range(repeats)):
        # One step of generate is the difference of a long and a short run.
        short_s = generate_s(reference, batch, PROMPT_TOKENS, WARM_STEPS)
        long_s = generate_s(reference, batch, PROMPT_TOKENS, WARM_STEPS + STEPS)
        steps_s = decode_step_s(batch, *(engines[dtype] for dtype in DTYPES))
        for dtype, step_s in zip(DTYPES, steps_s, strict=True):
            rounds[dtype, batch].append(((long_s - short_s) / STEPS, step_s))
    for (dtype, batch), measured in rounds.items():
        mark = DECODE_MARKS.get((dtype, batch), "")
        yield ratio("decode against transformers generate", _on(dtype, batch), measured, mark)


def _prefill(engines: Engines, reference: Any, repeats: int) -> Iterable[Row]:
    rounds: Rounds = {key: [] for key in itertools.product(DTYPES, BATCHES)}
    for batch, _ in itertools.product(BATCHES, range(repeats)):
        their_s = generate_s(reference, batch, PREFILL_ROWS // batch, 1)
        ours_s = prefill_s(batch, *(engines[dtype] for dtype in DTYPES))
        for dtype, our_s in zip(DTYPES, ours_s, strict=True):
            rounds[dtype, batch].append((their_s, our_s))
    for (dtype, batch), measured in rounds.items():
        workload = f"{_on(dtype, batch)} x {PREFILL_ROWS // batch} tokens"
        yield ratio("prefill against transformers generate", workload, measured)


def _read_bytes(engines: Engines, reference: Any) -> dict[ComputeDtype, int]:
    """Of the weights that one token needs: all but the input embedding, each once.

    What bf16 holds twice for speed is read once, so the reference says how much that is.
    """
    embedding = reference.get_input_embeddings().weight.nbytes
    sizes = {dtype: shards[0].info.weight_bytes - embedding for dtype, shards in engines.items()}
    whole = sum(weight.nbytes for weight in reference.parameters())
    return sizes | {ComputeDtype.BF16: whole - embedding}


def _against_bandwidth(
    engines: Engines, read_bytes: Mapping[ComputeDtype, int], repeats: int
) -> Iterable[Row]:
    memory = torch.ones(BANDWIDTH_BYTES // 4)
    for dtype in DTYPES:
        shares, growth = [], []
        for _ in range(repeats):
            bound_s = read_bytes[dtype] * shortest_s(memory.amax, 3) / memory.nbytes
            (one_s,) = decode_step_s(1, engines[dtype])
            (many_s,) = decode_step_s(32, engines[dtype])
            shares.append((bound_s, one_s))
            growth.append((32 * one_s, many_s))
        figure = "share of read bandwidth / weight bytes"
        yield ratio(figure, _on(dtype, 1), shares, SHARE_MARKS.get(dtype, ""))
        figure = "batch 32 against batch 1, tokens per second"
        yield ratio(figure, _on(dtype, 32), growth, GROWTH_MARKS.get(dtype, ""))


def _against_parts(whole: Sequence[Engine], parts: Sequence[Engine], repeats: int) -> Iterable[Row]:
    for batch in (1, 8):
        rounds = [decode_step_s(batch, parts, whole) for _ in range(repeats)]
        figure = "3 shards against unsplit, time per step"
        yield ratio(figure, _on(ComputeDtype.BF16, batch), rounds, "<= 1.02 x")


def _on(dtype: ComputeDtype, batch: int) -> str:
    return f"llama-0.5b {dtype}, 1 thread, batch {batch}"


if __name__ == "__main__":
    for row in rows():
        print(f"{row.figure} [{row.workload}]: {row.value} {row.unit} ({row.spread}) {row.mark}")
