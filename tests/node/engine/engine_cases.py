"""What tests of several engines share: a fake model's directory, and a route run by hand."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from node.engine.base import (
    ComputeDtype,
    Engine,
    Output,
    ShardSpec,
    StepItem,
    StepResult,
    TokenIds,
)
from protocol.route import Span
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype

GREEDY = SamplingParameters(temperature_millionths=0)
FAKE_LAYERS = 6
_ids = itertools.count(1)


def write_fake_model(directory: Path, **fields: Any) -> Path:
    config = {
        "model_type": "fake",
        "num_hidden_layers": FAKE_LAYERS,
        "hidden_size": 16,
        "vocab_size": 1000,
        "max_position_embeddings": 4096,
        **fields,
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def spec_of(
    directory: Path, start: int, end: int, *, layers: int = FAKE_LAYERS, **fields: Any
) -> ShardSpec:
    """A shard with the ends its span reaches, in fp32."""
    ends = {"embeds": start == 0, "has_head": end == layers}
    return ShardSpec(
        directory, Span(start, end), **{"compute_dtype": ComputeDtype.FP32, **ends, **fields}
    )


def ends_of(directory: Path, **fields: Any) -> ShardSpec:
    """The head's own shard of a sealed route."""
    return ShardSpec(
        directory,
        Span(0, 0),
        embeds=True,
        has_head=True,
        **{"compute_dtype": ComputeDtype.FP32, **fields},
    )


def cuts(layers: int, count: int) -> list[tuple[int, int]]:
    """`count` spans that tile the layers, as even as can be."""
    bounds = [round(layers * index / count) for index in range(count + 1)]
    return list(itertools.pairwise(bounds))


def tokens_item(sequence_id: int, position: int, tokens: Sequence[int], **fields: Any) -> StepItem:
    """A step of token ids; by default the last row's token is wanted."""
    array = np.asarray(tokens, np.int32)
    defaults = {"wanted": 1, "output": Output.TOKENS, "wire_dtype": WireDtype.FP32}
    return StepItem(sequence_id, position, count=len(array), tokens=array, **{**defaults, **fields})


@dataclass
class Route:
    """One sequence over shards in their order; a sealed route names its ends first and last."""

    shards: Sequence[Engine]
    wire: WireDtype = WireDtype.FP32
    sampling: SamplingParameters = GREEDY
    capacity: int = 512

    def __post_init__(self) -> None:
        self.sequence_id = next(_ids)
        for shard in self.unique_shards:
            shard.open(self.sequence_id, capacity_tokens=self.capacity, sampling=self.sampling)

    @property
    def unique_shards(self) -> list[Engine]:
        return list({id(shard): shard for shard in self.shards}.values())

    def step(self, position: int, tokens: Sequence[int], *, wanted: int = 1) -> TokenIds:
        array = np.asarray(tokens, np.int32)
        hidden = None
        for index, shard in enumerate(self.shards):
            is_last = index == len(self.shards) - 1
            item = StepItem(
                self.sequence_id,
                position,
                count=len(array),
                wanted=wanted if is_last else len(array),
                output=Output.TOKENS if is_last else Output.HIDDEN,
                wire_dtype=self.wire,
                tokens=array if index == 0 else None,
                hidden=hidden,
            )
            (result,) = shard.step([item])
            assert isinstance(result, StepResult), result
            hidden = result.hidden
        assert result.tokens is not None
        return result.tokens

    def truncate(self, position: int) -> None:
        for shard in self.unique_shards:
            shard.truncate(self.sequence_id, position)

    def close(self) -> None:
        for shard in self.unique_shards:
            shard.close(self.sequence_id)

    def generate(self, prompt: Sequence[int], count: int, *, chunk: int = 512) -> list[int]:
        """Prefill in chunks, then decode one token at a time."""
        for start in range(0, len(prompt), chunk):
            rows = prompt[start : start + chunk]
            is_last = start + chunk >= len(prompt)
            yielded = self.step(start, rows, wanted=int(is_last))
        generated = [int(yielded[0])]
        while len(generated) < count:
            position = len(prompt) + len(generated) - 1
            generated.append(int(self.step(position, generated[-1:])[0]))
        return generated

    def generate_drafted(self, prompt: Sequence[int], drafts: Sequence[int], k: int) -> list[int]:
        """As generate, but verifying `drafts` (what generate yielded), one in three spoiled."""
        generated = [int(self.step(0, prompt)[0])]
        while len(generated) < len(drafts):
            position = len(prompt) + len(generated) - 1
            guess = [
                token + (index % 3 == 2)
                for index, token in enumerate(
                    drafts[len(generated) : len(generated) + k], len(generated)
                )
            ]
            rows = [generated[-1], *guess]
            verified = self.step(position, rows, wanted=len(rows)).tolist()
            accepted = 0
            while accepted < len(guess) and guess[accepted] == verified[accepted]:
                accepted += 1
            generated += verified[: accepted + 1]
            self.truncate(position + accepted + 1)
        return generated[: len(drafts)]
