"""What the wire dtypes cost: bytes, processor time beside a step's, and the answer's deviation.

Time is one thread's processor time of the torch backend's own conversions of a step's rows, out of
bf16 and back into it, as a share of the same step through nine layers of llama-0.5b (a third of the
model, hidden 1024). For hidden 4096 the time alone is given. The deviation is that of the trained
model, see wire_numerics.py. `python -m benchmarks.wire_codec` prints the rows.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from benchmarks.row import Row
from benchmarks.wire_numerics import LINKS, Deviation, bf16_deviation, deviation
from node.engine.base import Activation, ComputeDtype, Engine, Output, ShardSpec, StepItem
from node.engine.torch_backend import load
from node.engine.torch_backend.rows import from_wire_all, to_wire_all
from protocol.route import Span
from protocol.tensor import WireDtype
from tools.tiny_checkpoints import make_checkpoint

__all__ = ["rows"]

INT8 = (WireDtype.INT8B32, WireDtype.INT8B32H)
LAYERS = 9
SMALL, LARGE = 1024, 4096
"""Hidden sizes: that of llama-0.5b, and that of a model of eight billion weights."""
SHAPES = {"batch 1": (1, 1), "batch 8": (8, 1), "prefill of 512": (1, 512)}
"""Sequences of a step, and the rows of each."""
SPARE_BYTES = 2 << 30
"""What the engine may take for speed: the faster the step, the larger the codec's share."""
REPEATS = 5
CALLS_S = 0.05
"""A conversion is repeated for this long, and the mean taken."""
_seconds = time.thread_time


def rows(repeats: int = REPEATS) -> list[Row]:
    """All rows; about two minutes."""
    torch.set_num_threads(1)
    return [*_bytes(), *_speed(repeats), *_numerics()]


def _bytes() -> Iterable[Row]:
    for hidden_size in (192, LARGE):
        ratio = WireDtype.INT8B32.row_bytes(hidden_size) / WireDtype.BF16.row_bytes(hidden_size)
        yield Row("bytes of int8b32 against bf16", f"hidden {hidden_size}", ratio, "x", "<= 0.53")


def _speed(repeats: int) -> Iterable[Row]:
    with tempfile.TemporaryDirectory(prefix="piecework-bench-") as folder:
        directory = make_checkpoint(Path(folder), "llama-0.5b", layers=LAYERS)
        spec = ShardSpec(
            directory,
            Span(0, LAYERS),
            embeds=False,
            has_head=False,
            compute_dtype=ComputeDtype.BF16,
            spare_bytes=SPARE_BYTES,
        )
        shard = load(spec)
    for name, (sequences, count) in SHAPES.items():
        for dtype in INT8:
            rounds = []
            for _ in range(repeats):
                step_s = _step_s(shard, sequences, count)
                rounds.append(_codec_s(dtype, SMALL, sequences, count) / step_s)
            figure = f"{dtype} there and back against a step"
            workload = f"llama-0.5b bf16, {LAYERS} layers, 1 thread, {name}"
            yield _median(figure, workload, rounds, "x", "<= 0.05 x")
    for name, (sequences, count) in SHAPES.items():
        for dtype in INT8:
            spent = [_codec_s(dtype, LARGE, sequences, count) * 1e3 for _ in range(repeats)]
            workload = f"hidden {LARGE}, 1 thread, {name}"
            yield _median(f"{dtype} there and back", workload, spent, "ms")


def _numerics() -> Iterable[Row]:
    yield from _deviation_rows(bf16_deviation(), "whole model in bf16")
    for has_outliers in (False, True):
        for dtype in (WireDtype.BF16, *INT8):
            for links in LINKS:
                found = deviation(dtype, links, has_outliers=has_outliers)
                workload = f"{dtype}, {links}{', imitated outliers' if has_outliers else ''}"
                mark = "<= 0.5 %" if dtype in INT8 else ""
                yield from _deviation_rows(found, workload, mark)


def _deviation_rows(found: Deviation, workload: str, mark: str = "") -> Iterable[Row]:
    workload = f"piecework-tiny, {workload}"
    yield Row("logits' error against fp32", workload, float(f"{found.relative_error:.3g}"), "")
    # What differs, because the page shows three digits and the mark is 99.5 % agreement.
    figure = "greedy tokens that differ from fp32"
    yield Row(figure, workload, round(100 * (1 - found.agreement), 3), "%", mark)


def _step_s(shard: Engine, sequences: int, count: int) -> float:
    """Median seconds of a step in bf16; each is taken back, so that all are alike."""
    given = _rows(SMALL, count)
    (array,) = to_wire_all([(slice(0, count), WireDtype.BF16)], given)
    batch = [
        StepItem(
            sequence_id, 0, count, count, Output.HIDDEN, WireDtype.BF16, hidden=array
        )
        for sequence_id in range(sequences)
    ]  # fmt: skip
    for item in batch:
        shard.open(item.sequence_id, capacity_tokens=count, sampling=None)
    spent = []
    for _ in range(4):
        started = _seconds()
        shard.step(batch)
        spent.append(_seconds() - started)
        for item in batch:
            shard.truncate(item.sequence_id, 0)
    for item in batch:
        shard.close(item.sequence_id)
    return statistics.median(spent[1:])


def _codec_s(dtype: WireDtype, hidden_size: int, sequences: int, count: int) -> float:
    """Seconds of one encoding and one decoding of a step's rows, as the engine does them."""
    hidden = _rows(hidden_size, sequences * count)
    target = torch.empty_like(hidden)
    slices = [slice(index * count, (index + 1) * count) for index in range(sequences)]

    def send() -> list[Activation]:
        return to_wire_all([(rows, dtype) for rows in slices], hidden)

    taken = [(rows, dtype, array) for rows, array in zip(slices, send(), strict=True)]
    with torch.inference_mode():
        return _mean_s(send) + _mean_s(lambda: from_wire_all(taken, target))


def _rows(hidden_size: int, count: int) -> torch.Tensor:
    values = np.random.default_rng(0).standard_normal((count, hidden_size), dtype=np.float32)
    return torch.from_numpy(values).bfloat16()


def _mean_s(call: Callable[[], object]) -> float:
    call()
    started, calls = _seconds(), 0
    while _seconds() - started < CALLS_S:
        call()
        calls += 1
    return (_seconds() - started) / calls


def _median(figure: str, workload: str, rounds: list[float], unit: str, mark: str = "") -> Row:
    spread = f"{min(rounds):.3g}-{max(rounds):.3g}"
    return Row(figure, workload, round(statistics.median(rounds), 4), unit, mark, spread)


if __name__ == "__main__":
    for row in rows():
        print(f"{row.figure} [{row.workload}]: {row.value} {row.unit} ({row.spread}) {row.mark}")
