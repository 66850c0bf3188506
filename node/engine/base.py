"""What an engine is: one shard, many sequences, one step at a time.

An engine is synchronous and single-threaded from outside; `worker.py` gives it a process of its
own and `runner.py` batches for it. Arrays that cross this border are numpy: float32 for the wire
dtype fp32, uint16 (the bits) for bf16, uint8 (the bytes) for int8b32, int32 for token ids.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import assert_never

import numpy as np
import numpy.typing as npt

from protocol.errors import EngineError
from protocol.limits import PREFIX_BLOCK_TOKENS
from protocol.route import Span
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype

__all__ = [
    "PREFIX_BLOCK_TOKENS",
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
    "wire_array_shape",
]

Activation = npt.NDArray[np.float32] | npt.NDArray[np.uint16] | npt.NDArray[np.uint8]
"""Rows as they travel, `wire_array_shape` and `wire_array_dtype`. C-contiguous."""

TokenIds = npt.NDArray[np.int32]
"""(tokens,)"""


class ComputeDtype(StrEnum):
    """A shard's numerics class: what its linears' weights are held in, and what rows compute in.

    Tokens are identical to the unsplit model only in fp32. int8 and int4 are weight-only: norms,
    embeddings, KV and activations stay bf16.
    """

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"
    """One scale an output row; in MLX one a group of 64 inputs."""
    INT4 = "int4"
    """One scale and zero point a group of 64 inputs."""


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
    device: str = "auto"
    """torch: `cpu`, `cuda`, `cuda:1`, `mps`; MLX: `cpu`, `gpu`; `auto` takes the fastest here."""


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

    @property
    def first_drawn(self) -> int:
        """Where the token of the first wanted row stands: behind that row."""
        return self.position + self.count - self.wanted + 1


@dataclass(frozen=True, slots=True)
class StepResult:
    """An item's output: `hidden`, the wanted rows in the wire dtype, or `tokens` (wanted,).

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
    kv_tokens_cached: int = 0
    """Rows kept of closed sequences for reuse; given up as soon as an opening needs their room."""
    reused_tokens: int = 0
    """Rows that openings found here already, since load."""


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
        prefix: Sequence[bytes] = (),
        drawn: Sequence[int] = (),
        drawn_at: int = 0,
    ) -> int:
        """Begin a sequence and reserve `capacity_tokens` of the KV budget for it.

        `span`: the layers its rows run through, where a route uses only a part of the shard.
        `sampling` is needed where the sequence asks for Output.TOKENS. `prefix[i]` names the first
        (i + 1) * PREFIX_BLOCK_TOKENS rows the sequence will have (a hash chain over all that
        decides them); gives back how many rows are here already from a closed sequence of the
        same span: the sequence begins with that length. Rows kept for reuse never make an
        opening fail.

        `drawn`: tokens drawn for this sequence elsewhere, the first of which stands at position
        `drawn_at`; penalties count them as if drawn here. Rows may be brought up to them by steps
        that want none, in any parts and with truncates between; a draw at an earlier position
        voids those at and behind it.

        Raises OutOfKV, and StepInvalid for an id that is open already, a span outside the shard,
        more drawn tokens than the capacity, or one outside the vocabulary.
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
        """Forget every row at or after `position`; exact, also in sliding-window layers.

        And the tokens those rows drew, unless some of open's `drawn` are still ahead of the rows.
        """

    @abstractmethod
    def close(self, sequence_id: int, *, keep: Sequence[bytes] = ()) -> None:
        """End the sequence. Closing an unknown sequence is no error: cancel may race.

        Its KV is freed, but the rows that `keep` names (as `prefix` of open; at most the rows it
        has) may stay for reuse while nobody needs the room.
        """

    @abstractmethod
    def statistics(self) -> EngineStatistics: ...


def wire_array_dtype(dtype: WireDtype) -> npt.DTypeLike:
    """The numpy dtype that carries a wire dtype's elements."""
    match dtype:
        case WireDtype.FP32:
            return np.float32
        case WireDtype.BF16:
            return np.uint16
        case WireDtype.INT8B32 | WireDtype.INT8B32H:
            return np.uint8
    assert_never(dtype)


def wire_array_shape(count: int, hidden_size: int, dtype: WireDtype) -> tuple[int, int]:
    """(rows, elements): hidden_size elements, but a row's bytes where they are the elements."""
    return count, dtype.row_bytes(hidden_size) // np.dtype(wire_array_dtype(dtype)).itemsize
