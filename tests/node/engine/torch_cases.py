"""What the torch backend's tests share: the unsplit model in transformers, and ragged batches."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.engine.base import Engine, Output, StepItem, StepResult
from protocol.tensor import WireDtype
from tests.node.engine.engine_cases import GREEDY, spec_of

torch = pytest.importorskip("torch", reason="the torch backend is not installed")
transformers = pytest.importorskip("transformers", reason="the torch backend is not installed")

LEVEL = 1e-4
"""Logits this near are a tie: sums in another order were measured up to 6e-6 apart."""

LAYERS = 4
WINDOW = 12
CAPACITY = 256

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 512,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 0.7,
    "mscale_all_dim": 0.9,
}
"""As DeepSeek publishes it: the attention's scale changes too."""

FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "cohere2": {"sliding_window": WINDOW},
    "deepseek_v2": {},
    "deepseek_v3": {"rope_parameters": YARN},
    "gemma": {},
    "gemma2": {
        "sliding_window": WINDOW,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 4,
    },
    "gemma3_text": {"sliding_window": WINDOW, "query_pre_attn_scalar": 4},
    "glm4_moe": {},
    "gpt_oss": {"sliding_window": WINDOW},
    "granite": {},
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "mixtral": {},
    "phi3": {"sliding_window": WINDOW},
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": {},
    "smollm3": {},
}
"""Every family that is served, and what differs from its row in tools/tiny_checkpoints.py."""

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "llama-untied": {"tie_word_embeddings": False},
    "llama-biases": {"attention_bias": True, "mlp_bias": True},
    "llama-linear": {
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}
    },
    "qwen2-windows": {
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 2,
    },
    "gemma3_text-capped": {
        "sliding_window": WINDOW,
        "query_pre_attn_scalar": 4,
        "final_logit_softcapping": 3.0,
    },
    "gemma2-uncapped": {"sliding_window": WINDOW, "attn_logit_softcapping": None},
    "gemma3_text-linear": {
        "sliding_window": WINDOW,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "deepseek_v2-grouped": {
        "topk_method": "group_limited_greedy",
        "n_group": 2,
        "topk_group": 1,
        "q_lora_rank": 24,
        "rope_parameters": YARN,
    },
    "deepseek_v3-plain": {"q_lora_rank": None, "rope_interleave": False},
}
"""Settings of those families that take another way through the code."""


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

    def misdrawn(self, tokens: Sequence[int], drawn: Mapping[int, int]) -> dict[int, int]:
        """Of `drawn` (row to the token after it), what is not the highest logit or level with it.

        For tokens at random, of which one in 100 000 meets two logits that fp32 cannot tell apart.
        """
        with torch.inference_mode():
            logits = self.model(torch.tensor([list(tokens)])).logits[0]
        lost = {row: float(logits[row].max() - logits[row, token]) for row, token in drawn.items()}
        return {row: drawn[row] for row, gap in lost.items() if gap > LEVEL}


def last_hidden(model: Any, tokens: Sequence[int]) -> np.ndarray:
    """(tokens, hidden_size) float32: the residual stream after the last layer, before the norm."""
    seen = []
    handle = model.model.norm.register_forward_pre_hook(lambda _, rows: seen.append(rows[0]))
    with torch.inference_mode():
        model(torch.tensor([list(tokens)]))
    handle.remove()
    return seen[0][0].float().numpy()


def family_of(name: str) -> str:
    return name.split("-", maxsplit=1)[0]


def make_unsplit(folder: Path, name: str, **overrides: Any) -> Unsplit:
    fields = {**FAMILIES.get(name, {}), **VARIANTS.get(name, {}), **overrides}
    from tools.tiny_checkpoints import make_checkpoint

    directory = make_checkpoint(folder / name, family_of(name), layers=LAYERS, **fields)
    return Unsplit(directory, load_unsplit(directory, torch.float32))


def load_unsplit(directory: Path, dtype: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(5, 2000, length)]


PROMPTS = [prompt_of(length, seed=length) for length in (5, 17, 90)]
"""Ragged; 90 is longer than a sliding window and than a fresh KV slot."""
COUNT = 8


@dataclass(frozen=True)
class Models:
    """Checkpoints, unsplit models and shards by name, each made when first asked for."""

    folder: Path
    _made: dict[Any, Any] = field(default_factory=dict)

    def unsplit(self, name: str) -> Unsplit:
        return self._once(name, lambda: make_unsplit(self.folder, name))

    def expected(self, name: str) -> list[list[int]]:
        """Greedy tokens of the unsplit model for PROMPTS."""

        def generate() -> list[list[int]]:
            return [self.unsplit(name).generate(prompt, COUNT) for prompt in PROMPTS]

        return self._once((name, "expected"), generate)

    def shards(self, name: str, *bounds: int) -> list[Engine]:
        """Loaded shards that tile the model, ends included; cuts share the spans they share."""
        return [self._shard(name, *span) for span in pairwise((0, *bounds, LAYERS))]

    def _shard(self, name: str, start: int, end: int) -> Engine:
        from node.engine.torch_backend import load

        directory = self.unsplit(name).directory
        spec = spec_of(directory, start, end, layers=LAYERS)
        return self._once((name, start, end), lambda: load(spec))

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


FP4_VALUES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
"""What four bits stand for in MXFP4 (Open Compute Project, MX formats 1.0)."""


def store_as_mxfp4(unsplit: Unsplit) -> Unsplit:
    """The checkpoint with its experts stored as gpt-oss is published, and what it is unsplit."""
    from safetensors.torch import load_file, save_file

    directory = unsplit.directory
    index_path, config_path = directory / "model.safetensors.index.json", directory / "config.json"
    index = json.loads(index_path.read_text())
    for file in set(index["weight_map"].values()):
        tensors = load_file(directory / file)
        for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
            packed = dict(zip(("blocks", "scales"), to_mxfp4(tensors.pop(name)), strict=True))
            del index["weight_map"][name]
            for part, tensor in packed.items():
                tensors[f"{name}_{part}"] = tensor
                index["weight_map"][f"{name}_{part}"] = file
        save_file(tensors, directory / file, metadata={"format": "pt"})
    index_path.write_text(json.dumps(index))
    config = json.loads(config_path.read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": []}
    config_path.write_text(json.dumps(config))
    read = transformers.AutoConfig.from_pretrained(directory)
    read.quantization_config["dequantize"] = True
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, config=read, dtype=torch.float32
    )
    return Unsplit(directory, model.eval())


def to_mxfp4(weight: Any) -> tuple[Any, Any]:
    """(experts, inputs, outputs) to blocks (experts, outputs, inputs / 32, 16) and scales."""
    by_block = weight.mT.unflatten(-1, (-1, 32))
    exponents = by_block.abs().amax(-1, keepdim=True).log2().floor() - 2
    distances = ((by_block / exponents.exp2()).unsqueeze(-1) - FP4_VALUES).abs()
    nibbles = distances.argmin(-1).to(torch.uint8)
    return nibbles[..., 0::2] | (nibbles[..., 1::2] << 4), (exponents[..., 0] + 127).to(torch.uint8)


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
    shards: Sequence[Engine],
    prompts: Sequence[Sequence[int]],
    count: int,
    *,
    capacity: int = CAPACITY,
    **options: Any,
) -> list[list[int]]:
    """Greedy tokens of several prompts, prefilled and decoded in one ragged batch."""
    ids = range(len(prompts))
    open_all(shards, ids, capacity=capacity)
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
