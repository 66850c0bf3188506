"""A shard that knows only its text: real frames, rows, checks and positions, and nothing computed.

What comes out is random rows in the wire dtype, and the tokens of a script.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.wan.script import Script
from benchmarks.wan.shapes import CONTEXT_TOKENS, VOCABULARY, Shape
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
from node.engine.errors import StepInvalid
from node.engine.prefix_cache import KVBudget
from node.engine.validation import find_fault, sequence_span, validate_spec
from node.engine.wire import encode
from protocol.errors import EngineError
from protocol.limits import STEP_TOKENS_MAX
from protocol.route import Span
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype

__all__ = ["ScriptedShard"]

KV_TOKENS: Final = 1 << 20
"""Sessions never wait for room here."""


@dataclass(slots=True)
class _Sequence:
    capacity: int
    sampling: SamplingParameters | None
    span: Span
    length: int = 0


class ScriptedShard(Engine):
    """A shard of a model that knows only its text. Never waits."""

    def __init__(self, shape: Shape, span: Span, *, embeds: bool, has_head: bool) -> None:
        self._spec = ShardSpec(Path(), span, embeds, has_head, kv_tokens=KV_TOKENS)
        validate_spec(self._spec, shape.layers)
        self._info = EngineInfo(
            backend="roofline",
            family="roofline",
            span=span,
            layers=shape.layers,
            hidden_size=shape.hidden_size,
            vocabulary_size=VOCABULARY,
            context_tokens=CONTEXT_TOKENS,
            weight_bytes=0,
            kv_bytes_per_token=0,
        )
        self._script = Script(VOCABULARY)
        self._sequences: dict[int, _Sequence] = {}
        self._budget: KVBudget[_Sequence] = KVBudget(KV_TOKENS, _cut)
        self._rows_by_dtype: dict[WireDtype, Activation] = {}
        self._steps = self._row_count = 0

    @property
    def info(self) -> EngineInfo:
        return self._info

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
        if sequence_id in self._sequences:
            raise StepInvalid(f"Sequence {sequence_id} is open already.")
        layers = sequence_span(span, self._spec.span)
        sequence = _Sequence(capacity_tokens, sampling, layers)
        if len(self._spec.span):
            found = self._budget.open(capacity_tokens, layers, prefix)
            sequence.length = found.tokens if found else 0
        self._sequences[sequence_id] = sequence
        return sequence.length

    def step(self, batch: Sequence[StepItem]) -> list[StepResult | EngineError]:
        self._steps += 1
        return [self._run(item) for item in batch]

    def truncate(self, sequence_id: int, position: int) -> None:
        sequence = self._sequences.get(sequence_id)
        if sequence is None:
            raise StepInvalid(f"Sequence {sequence_id} is not open.")
        if position < 0 or (len(self._spec.span) and position > sequence.length):
            raise StepInvalid(f"A sequence of {sequence.length} rows has no position {position}.")
        sequence.length = position

    def close(self, sequence_id: int, *, keep: Sequence[bytes] = ()) -> None:
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is not None and len(self._spec.span):
            length = sequence.length
            self._budget.close(sequence.capacity, sequence.span, sequence, length, keep)

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(
            sequences=len(self._sequences),
            kv_tokens_reserved=self._budget.reserved_tokens,
            kv_tokens_max=KV_TOKENS,
            steps=self._steps,
            rows=self._row_count,
            busy_s=0.0,
        )

    def _run(self, item: StepItem) -> StepResult | EngineError:
        sequence = self._sequences.get(item.sequence_id)
        if sequence is None:
            return StepInvalid(f"Sequence {item.sequence_id} is not open.")
        has_sampling = sequence.sampling is not None
        length, capacity = sequence.length, sequence.capacity
        fault = find_fault(
            item, self._spec, self._info, length=length, capacity=capacity,
            has_sampling=has_sampling,
        )  # fmt: skip
        if fault is not None:
            return fault
        self._row_count += item.count
        sequence.length = item.position + item.count
        if item.output is Output.TOKENS:
            return StepResult(tokens=self._script.tokens(item.first_drawn, item.wanted))
        return StepResult(hidden=self._hidden(item.wanted, item.wire_dtype))

    def _hidden(self, count: int, dtype: WireDtype) -> Activation:
        """Random rows: nothing on the way may find them easier to carry than real ones."""
        if dtype not in self._rows_by_dtype:
            shape = (STEP_TOKENS_MAX, self._info.hidden_size)
            rows = np.random.default_rng(0).standard_normal(shape, np.float32)
            self._rows_by_dtype[dtype] = encode(rows, dtype)
        return self._rows_by_dtype[dtype][:count]


def _cut(sequence: _Sequence, length: int) -> None:
    """Nothing is kept of a closed sequence but how long it was."""
    sequence.length = length
