"""What an engine is: one shard, many sequences, one step at a time.

An engine is synchronous and single-threaded from outside; `worker.py` gives it a process of its
own and `runner.py` batches for it. Arrays that cross this border are numpy: float32 for the wire
dtype fp32, uint16 (the bits) for bf16, int32 for token ids.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protocol.errors import EngineError
from protocol.route import Span
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype

__all__ = [
    "Activation",
    "ComputeDtype",
    "Engine",
    "EngineInfo",
    "EngineStatistics",
    "Output",
    "ShardSpec",
    "StepItem",
    "StepResult",
    "TokenIds",
    "wire_array_dtype",
]

Activation = npt.NDArray[np.float32] | npt.NDArray[np.uint16]
"""(tokens, hidden_size); float32 for fp32, uint16 bits for bf16. C-contiguous."""

TokenIds = npt.NDArray[np.int32]
"""(tokens,)"""


class ComputeDtype(StrEnum):
    """What the layers compute in. Tokens are identical to the unsplit model only in fp32."""

    FP32 = "fp32"
    BF16 = "bf16"


class Output(StrEnum):
    """What an item yields for its wanted rows."""

    HIDDEN = "hidden"
    """The residual stream after the shard's last layer, before any final norm."""
    TOKENS = "tokens"
    """One sampled token a row: final norm, LM head, sampler. Needs a shard with the head."""


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """Which shard to load, and how. An empty span with both ends is the head's own shard."""

    directory: Path
    """HF layout: config.json, tokenizer.json, safetensors with or without an index."""
    span: Span
    embeds: bool
    has_head: bool
    compute_dtype: ComputeDtype = ComputeDtype.BF16
    kv_tokens: int = 16_384
    """KV budget over all sequences; opening reserves from it, so no step can run out."""
    threads: int = 1
    spare_bytes: int = 0
    """Memory the engine may take beyond weights and KV where that makes it faster."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What was loaded. `weight_bytes` as held in memory, `kv_bytes_per_token` over the span."""

    backend: str
    family: str
    span: Span
    layers: int
    """Of the whole model."""
    hidden_size: int
    vocabulary_size: int
    context_tokens: int
    weight_bytes: int
    kv_bytes_per_token: int


@dataclass(frozen=True, slots=True)
class StepItem:
    """One sequence's rows in a batch: a prefill chunk, one decode, or k rows to verify.

    Exactly one of `tokens` (a shard that embeds) and `hidden` is given; both have `count` rows.
    The last `wanted` rows yield output. The row at `position + i` sees positions up to itself.
    On a shard without layers `position` keys the sampler only and no KV is kept.
    """

    sequence_id: int
    position: int
    count: int
    wanted: int
    output: Output
    wire_dtype: WireDtype
    tokens: TokenIds | None = None
    hidden: Activation | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """An item's output: `hidden` (wanted, hidden_size) in the wire dtype, or `tokens` (wanted,).

    `tokens[i]` was drawn after the row at position p and belongs at position p + 1.
    """

    hidden: Activation | None = None
    tokens: TokenIds | None = None


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    sequences: int
    kv_tokens_reserved: int
    kv_tokens_max: int
    steps: int
    rows: int
    busy_s: float
    """Seconds spent inside step() since load."""


class Engine(ABC):
    """One loaded shard. Not thread-safe; owned by the worker process."""

    @property
    @abstractmethod
    def info(self) -> EngineInfo: ...

    @abstractmethod
    def open(
        self,
        sequence_id: int,
        *,
        capacity_tokens: int,
        sampling: SamplingParameters | None,
        span: Span | None = None,
    ) -> None:
        """Begin a sequence and reserve `capacity_tokens` of the KV budget for it.

        `span`: the layers its rows run through, where a route uses only a part of the shard.
        `sampling` is needed where the sequence asks for Output.TOKENS. Raises OutOfKV, and
        StepInvalid for an id that is open already or a span outside the shard.
        """

    @abstractmethod
    def step(self, batch: Sequence[StepItem]) -> list[StepResult | EngineError]:
        """Run every item's rows through the shard in one pass; one result an item, in order.

        Items are independent and at most one per sequence. An item whose position is not the
        sequence's length, whose shape or token ids do not fit, or that would pass its capacity,
        gives a StepInvalid in its place and leaves its sequence as it was; the others run.
        """

    @abstractmethod
    def truncate(self, sequence_id: int, position: int) -> None:
        """Forget every row at or after `position`; exact, also in sliding-window layers."""

    @abstractmethod
    def close(self, sequence_id: int) -> None:
        """Free the sequence's KV. Closing an unknown sequence is no error: cancel may race."""

    @abstractmethod
    def statistics(self) -> EngineStatistics: ...


def wire_array_dtype(dtype: WireDtype) -> npt.DTypeLike:
    """The numpy dtype that carries a wire dtype's elements."""
    return np.float32 if dtype is WireDtype.FP32 else np.uint16
