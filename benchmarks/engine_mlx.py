"""How fast the MLX engine decodes, beside mlx_lm's own generation of the whole model.

Both sides run one after the other in every round, on one model of random weights, greedy, and the
median of the rounds' ratios is the figure. mlx_lm decodes one sequence with `generate_step`; its
many go through `BatchGenerator`. On Linux MLX computes on the CPU, where a step of eight rows costs
eight of one and nothing can be gained by batching: figures from there show overhead only.
`python -m benchmarks.engine_mlx` prints the rows.
"""

import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.row import Row
from node.engine.base import ComputeDtype, Engine, Output, ShardSpec, StepItem, StepResult
from protocol.route import Span
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype
from tools.tiny_checkpoints import make_checkpoint

__all__ = ["rows"]

LAYERS = 8
SHAPE: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 4096,
}
"""Small: MLX multiplies matrices slowly on a CPU. About 30 M weights."""
PROMPT_TOKENS = 16
STEPS = 12
WARM_STEPS = 2
CAPACITY_TOKENS = 128
BATCHES = (1, 8)
REPEATS = 5
GREEDY = SamplingParameters(temperature_millionths=0)
CALLS_MAX = 100
"""Of BatchGenerator, until all its prompts are prefilled: far more than it takes."""


def rows(repeats: int = REPEATS) -> list[Row]:
    """All rows, about a minute; none where mlx is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("mlx", "mlx_lm")):
        print("skipped: mlx is not installed (piecework[mlx])", file=sys.stderr)
        return []
    from mlx_lm.utils import load_model

    from node.engine.mlx_backend import load

    with tempfile.TemporaryDirectory(prefix="piecework-bench-") as folder:
        directory = make_checkpoint(Path(folder), "llama", layers=LAYERS, dtype="bfloat16", **SHAPE)
        spec = ShardSpec(
            directory,
            Span(0, LAYERS),
            embeds=True,
            has_head=True,
            compute_dtype=ComputeDtype.BF16,
        )
        engine = load(spec)
        model = load_model(directory)[0]  # with another rope: it costs the same
        return [row for batch in BATCHES for row in _compare(engine, model, batch, repeats)]


def _compare(engine: Engine, model: Any, batch: int, repeats: int) -> Iterable[Row]:
    prompts = np.random.default_rng(0).integers(5, 4000, (batch, PROMPT_TOKENS), dtype=np.int32)
    theirs = _generate_step_s if batch == 1 else _batch_generate_s
    rounds = [(theirs(model, prompts), _engine_step_s(engine, prompts)) for _ in range(repeats)]
    ratios = sorted(their_s / our_s for their_s, our_s in rounds)
    workload = f"llama of 30 M bf16, {_device()}, batch {batch}"
    yield Row(
        "MLX engine against mlx_lm, tokens per second",
        workload,
        round(statistics.median(ratios), 3),
        "x",
        spread=f"{ratios[0]:.2f}-{ratios[-1]:.2f}",
    )
    speed = batch / statistics.median(our_s for _, our_s in rounds)
    yield Row("MLX engine, decode", workload, round(speed, 1), "tokens/s")


def _device() -> str:
    import mlx.core as mx

    return "MLX on GPU" if mx.default_device() == mx.Device(mx.gpu) else "MLX on CPU"


def _engine_step_s(engine: Engine, prompts: np.ndarray) -> float:
    """Median seconds of one decode step of all prompts' sequences."""
    ids = range(len(prompts))
    for index in ids:
        engine.open(index, capacity_tokens=CAPACITY_TOKENS, sampling=GREEDY)
    tokens = [_step(engine, [index], 0, [prompts[index]])[0] for index in ids]
    spent = []
    for step in range(WARM_STEPS + STEPS):
        started = time.perf_counter()
        tokens = _step(engine, ids, PROMPT_TOKENS + step, tokens)
        spent.append(time.perf_counter() - started)
    for index in ids:
        engine.close(index)
    return statistics.median(spent[WARM_STEPS:])


def _step(engine: Engine, ids: Sequence[int], position: int, tokens: Sequence[Any]) -> list[Any]:
    results = engine.step(
        [
            StepItem(
                index,
                position,
                count=len(row),
                wanted=1,
                output=Output.TOKENS,
                wire_dtype=WireDtype.BF16,
                tokens=row,
            )
            for index, row in zip(ids, tokens, strict=True)
        ]
    )
    assert all(isinstance(result, StepResult) for result in results), results
    return [result.tokens for result in results if isinstance(result, StepResult)]


def _generate_step_s(model: Any, prompts: np.ndarray) -> float:
    """Median seconds of one token of mlx_lm's generate_step."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step

    prompt = mx.array(prompts[0].astype(np.int32))
    tokens = generate_step(prompt, model, max_tokens=WARM_STEPS + STEPS + 1)
    next(tokens)
    return _median_s(lambda: next(tokens))


def _batch_generate_s(model: Any, prompts: np.ndarray) -> float:
    """Median seconds of one step of mlx_lm's BatchGenerator over all prompts."""
    from mlx_lm.generate import BatchGenerator

    generator = BatchGenerator(model, max_tokens=CAPACITY_TOKENS)
    generator.insert([prompt.tolist() for prompt in prompts])
    for _ in range(CALLS_MAX):
        if len(generator.next_generated()) == len(prompts):
            return _median_s(generator.next_generated)
    raise RuntimeError(f"mlx_lm did not generate {len(prompts)} sequences at once")


def _median_s(call: Callable[[], object]) -> float:
    spent = []
    for _ in range(WARM_STEPS + STEPS):
        started = time.perf_counter()
        call()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent[WARM_STEPS:])


if __name__ == "__main__":
    for row in rows():
        print(f"{row.figure} [{row.workload}]: {row.value} {row.unit} ({row.spread}) {row.mark}")
