"""`MLXEngine`: the Engine interface over one loaded shard.

mlx_lm's attention takes rope positions from its cache and not from an argument, so rows of
different sequences cannot be packed into one pass: the step goes through its items one by one,
building one lazy graph, and evaluates that at once. A batch costs the sum of its items.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from node.engine.base import (
    Activation,
    Engine,
    EngineInfo,
    EngineStatistics,
    Output,
    ShardSpec,
    StepItem,
    StepResult,
)
from node.engine.errors import OutOfKV, StepInvalid
from node.engine.mlx_backend.cache import LayerCache
from node.engine.mlx_backend.shard import MLX_DTYPE, Shard
from node.engine.sampler import SamplerState, sample
from node.engine.validation import find_fault, sequence_span
from protocol.errors import EngineError
from protocol.route import Span
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype

__all__ = ["MLXEngine"]


@dataclass(slots=True, eq=False)
class _Sequence:
    """One open sequence. On a shard without layers there are no caches and no length."""

    capacity_tokens: int
    span: Span
    sampling: SamplingParameters | None
    caches: list[LayerCache]
    sampler: SamplerState = field(default_factory=SamplerState)

    @property
    def length(self) -> int:
        return self.caches[0].offset if self.caches else 0

    def truncate(self, position: int) -> None:
        for cache in self.caches:
            cache.offset = position
        # The token that stands at `position` was drawn after the row before it, which stays.
        self.sampler.truncate(position + 1)


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """An accepted item and what it will yield: wire elements or logits, still lazy."""

    index: int
    item: StepItem
    sequence: _Sequence
    outcome: mx.array


class MLXEngine(Engine):
    """One shard in this process, used from the thread that loaded it."""

    def __init__(self, spec: ShardSpec, shard: Shard) -> None:
        self._spec = spec
        self._shard = shard
        self._dtype = MLX_DTYPE[spec.compute_dtype]
        self._info = self._describe()
        self._sequences: dict[int, _Sequence] = {}
        self._reserved = 0
        self._steps = 0
        self._rows = 0
        self._busy_s = 0.0

    @property
    def info(self) -> EngineInfo:
        return self._info

    def _describe(self) -> EngineInfo:
        fields = self._shard.config.fields
        kv_numbers = 2 * fields["num_key_value_heads"] * fields["head_dim"]
        return EngineInfo(
            backend="mlx",
            family=self._shard.config.family,
            span=self._spec.span,
            layers=self._shard.config.layers,
            hidden_size=fields["hidden_size"],
            vocabulary_size=fields["vocab_size"],
            context_tokens=fields["max_position_embeddings"],
            weight_bytes=self._shard.weight_bytes,
            kv_bytes_per_token=len(self._spec.span) * kv_numbers * self._dtype.size,
        )

    def open(
        self,
        sequence_id: int,
        *,
        capacity_tokens: int,
        sampling: SamplingParameters | None,
        span: Span | None = None,
    ) -> None:
        if sequence_id in self._sequences:
            raise StepInvalid(f"Sequence {sequence_id} is open already.")
        context = self._info.context_tokens
        if not 0 < capacity_tokens <= context:
            raise StepInvalid(f"{capacity_tokens} tokens do not fit the model's context {context}.")
        layers = sequence_span(span, self._spec.span)
        if len(self._spec.span):
            free = self._spec.kv_tokens - self._reserved
            if capacity_tokens > free:
                raise OutOfKV(f"{capacity_tokens} tokens were asked for; {free} are left.")
            self._reserved += capacity_tokens
        caches = self._shard.make_caches(layers, capacity_tokens)
        self._sequences[sequence_id] = _Sequence(capacity_tokens, layers, sampling, caches)

    def step(self, batch: Sequence[StepItem]) -> list[StepResult | EngineError]:
        started = time.perf_counter()
        results = self._step(batch)
        self._steps += 1
        self._busy_s += time.perf_counter() - started
        return results

    def truncate(self, sequence_id: int, position: int) -> None:
        sequence = self._sequences.get(sequence_id)
        if sequence is None:
            raise StepInvalid(f"Sequence {sequence_id} is not open.")
        if position < 0 or (sequence.caches and position > sequence.length):
            raise StepInvalid(f"A sequence of {sequence.length} rows has no position {position}.")
        sequence.truncate(position)

    def close(self, sequence_id: int) -> None:
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is not None and sequence.caches:
            self._reserved -= sequence.capacity_tokens

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(
            sequences=len(self._sequences),
            kv_tokens_reserved=self._reserved,
            kv_tokens_max=self._spec.kv_tokens,
            steps=self._steps,
            rows=self._rows,
            busy_s=self._busy_s,
        )

    def _step(self, batch: Sequence[StepItem]) -> list[StepResult | EngineError]:
        results: dict[int, StepResult | EngineError] = {}
        works: list[_Work] = []
        seen: set[int] = set()
        for index, item in enumerate(batch):
            sequence = self._sequences.get(item.sequence_id)
            fault = self._find_fault(item, sequence, seen)
            if fault is not None or sequence is None:
                results[index] = fault or StepInvalid("The sequence is not open.")
                continue
            seen.add(item.sequence_id)
            works.append(_Work(index, item, sequence, self._plan(item, sequence)))
            self._rows += item.count
        # Caches too: an item that wants no row has no outcome that would pull them along.
        caches = [array for w in works for cache in w.sequence.caches for array in cache.arrays]
        mx.eval([work.outcome for work in works], caches)
        for work in works:
            results[work.index] = self._finish(work)
        return [results[index] for index in range(len(batch))]

    def _find_fault(
        self, item: StepItem, sequence: _Sequence | None, seen: set[int]
    ) -> StepInvalid | None:
        if sequence is None:
            return StepInvalid(f"Sequence {item.sequence_id} is not open.")
        if item.sequence_id in seen:
            return StepInvalid(f"Sequence {item.sequence_id} stands in the batch twice.")
        return find_fault(
            item,
            self._spec,
            self._info,
            length=sequence.length,
            capacity=sequence.capacity_tokens,
            has_sampling=sequence.sampling is not None,
        )

    def _plan(self, item: StepItem, sequence: _Sequence) -> mx.array:
        """The item's rows through the shard, lazily: (wanted, hidden_size) or logits."""
        if item.tokens is not None:
            rows = self._shard.embed(item.tokens)
        else:
            assert item.hidden is not None
            rows = _from_wire(item.hidden, item.wire_dtype).astype(self._dtype)[None]
        rows = self._shard.run(rows, sequence.span, sequence.caches)
        wanted = rows[:, item.count - item.wanted :]
        if item.output is Output.HIDDEN or item.wanted == 0:
            return _to_wire(wanted[0], item.wire_dtype)
        return self._shard.logits(wanted)[0]

    def _finish(self, work: _Work) -> StepResult | EngineError:
        item = work.item
        if item.output is Output.HIDDEN:
            return StepResult(hidden=np.ascontiguousarray(np.array(work.outcome)))
        if item.wanted == 0:
            return StepResult(tokens=np.empty(0, np.int32))
        logits = np.array(work.outcome)
        first = item.position + item.count - item.wanted + 1
        sampling, sampler = work.sequence.sampling, work.sequence.sampler
        assert sampling is not None
        try:
            drawn = [sample(row, sampling, sampler, first + i) for i, row in enumerate(logits)]
        except EngineError as error:
            work.sequence.truncate(item.position)  # as if the step had not been
            return error
        return StepResult(tokens=np.array(drawn, np.int32))


def _from_wire(hidden: Activation, dtype: WireDtype) -> mx.array:
    """numpy has no bf16: its bits cross as uint16."""
    array = mx.array(hidden)
    return array if dtype is WireDtype.FP32 else array.view(mx.bfloat16)


def _to_wire(rows: mx.array, dtype: WireDtype) -> mx.array:
    if dtype is WireDtype.FP32:
        return rows.astype(mx.float32)
    return mx.contiguous(rows.astype(mx.bfloat16)).view(mx.uint16)
