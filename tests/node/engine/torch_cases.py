"""What the torch backend's tests share: the unsplit model in transformers, and ragged batches."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.engine.base import Engine, Output, StepItem, StepResult
from protocol.tensor import WireDtype
from tests.node.engine.engine_cases import GREEDY

torch = pytest.importorskip("torch", reason="the torch backend is not installed")
transformers = pytest.importorskip("transformers", reason="the torch backend is not installed")

LAYERS = 5
WINDOW = 12
CAPACITY = 256

FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "llama": {},
    "llama-untied": {"tie_word_embeddings": False},
    "llama-biases": {"attention_bias": True, "mlp_bias": True},
    "llama-linear-rope": {
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}
    },
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {},
    "qwen2-windows": {
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 2,
    },
    "qwen3": {},
    "phi3": {"sliding_window": WINDOW},
    "mixtral": {},
    "qwen3_moe": {},
}
"""A family and what differs from its row in tools/tiny_checkpoints.py."""


@dataclass(frozen=True)
class Unsplit:
    """A checkpoint and what transformers makes of it, whole."""

    directory: Path
    model: Any

    def generate(self, prompt: Sequence[int], count: int) -> list[int]:
        with torch.inference_mode():
            ids = self.model.generate(
                torch.tensor([list(prompt)]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=count,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=1,
            )
        return ids[0, len(prompt) :].tolist()

    def next_tokens(self, tokens: Sequence[int]) -> list[int]:
        """The greedy token after every prefix."""
        with torch.inference_mode():
            return self.model(torch.tensor([list(tokens)])).logits[0].argmax(-1).tolist()


def last_hidden(model: Any, tokens: Sequence[int]) -> np.ndarray:
    """(tokens, hidden_size) float32: the residual stream after the last layer, before the norm."""
    seen = []
    handle = model.model.norm.register_forward_pre_hook(lambda _, rows: seen.append(rows[0]))
    with torch.inference_mode():
        model(torch.tensor([list(tokens)]))
    handle.remove()
    return seen[0][0].float().numpy()


def make_unsplit(folder: Path, name: str, **overrides: Any) -> Unsplit:
    family = name.split("-", maxsplit=1)[0]
    fields = {**FAMILIES.get(name, {}), **overrides}
    from tools.tiny_checkpoints import make_checkpoint

    directory = make_checkpoint(folder / name, family, layers=LAYERS, **fields)
    return Unsplit(directory, load_unsplit(directory, torch.float32))


def load_unsplit(directory: Path, dtype: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(5, 2000, length)]


def step_through(
    shards: Sequence[Engine],
    rows: Mapping[int, tuple[int, Sequence[int]]],
    wanted: Callable[[Sequence[int]], int] = len,
    wire: WireDtype = WireDtype.FP32,
) -> dict[int, list[int]]:
    """One step of several sequences through all shards: id to (position, tokens) in, tokens out.

    `wanted` says of an item's tokens how many rows at the end are to be sampled.
    """
    hidden: dict[int, Any] = {}
    for index, shard in enumerate(shards):
        is_last = index == len(shards) - 1
        batch = [
            StepItem(
                sequence_id,
                position,
                count=len(tokens),
                wanted=wanted(tokens) if is_last else len(tokens),
                output=Output.TOKENS if is_last else Output.HIDDEN,
                wire_dtype=wire,
                tokens=np.asarray(tokens, np.int32) if index == 0 else None,
                hidden=hidden.get(sequence_id),
            )
            for sequence_id, (position, tokens) in rows.items()
        ]
        results = shard.step(batch)
        for item, result in zip(batch, results, strict=True):
            assert isinstance(result, StepResult), result
            hidden[item.sequence_id] = result.tokens if is_last else result.hidden
    return {sequence_id: tokens.tolist() for sequence_id, tokens in hidden.items()}


def open_all(
    shards: Sequence[Engine],
    ids: Sequence[int],
    *,
    capacity: int = CAPACITY,
    sampling: Any = GREEDY,
) -> None:
    for shard in {id(shard): shard for shard in shards}.values():
        for sequence_id in ids:
            shard.open(sequence_id, capacity_tokens=capacity, sampling=sampling)


def close_all(shards: Sequence[Engine], ids: Iterable[int]) -> None:
    for shard in shards:
        for sequence_id in ids:
            shard.close(sequence_id)


def generate_together(
    shards: Sequence[Engine], prompts: Sequence[Sequence[int]], count: int, **options: Any
) -> list[list[int]]:
    """Greedy tokens of several prompts, prefilled and decoded in one ragged batch."""
    ids = range(len(prompts))
    open_all(shards, ids)
    generated: list[list[int]] = [[] for _ in prompts]
    rows = {index: (0, prompts[index]) for index in ids}
    while len(generated[0]) < count:
        drawn = step_through(shards, rows, wanted=lambda _: 1, **options)
        for index in ids:
            position = rows[index][0] + len(rows[index][1])
            generated[index] += drawn[index]
            rows[index] = (position, drawn[index])
    close_all(shards, ids)
    return generated
