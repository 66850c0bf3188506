"""`MLXEngine`: the Engine interface over one loaded shard.

A step checks each item by itself, groups the sequences that can go through the layers together
(grouping.py), builds one lazy graph over all groups and evaluates it at once. An item whose rows
turn out to be no numbers, or whose token cannot be drawn, leaves its sequence as it was.
"""

import time
from collections.abc import Sequence

import mlx.core as mx

from node.engine.base import Engine, EngineInfo, EngineStatistics, ShardSpec, StepItem, StepResult
from node.engine.errors import StepInvalid
from node.engine.mlx_backend.batch import OpenSequence, Work, rows_of, run_batch
from node.engine.mlx_backend.grouping import BLOCK_ROWS
from node.engine.mlx_backend.kv import KVSequence
from node.engine.mlx_backend.shard import Shard
from node.engine.prefix_cache import KVBudget
from node.engine.sampler import SamplerState, validate_drawn
from node.engine.validation import find_fault, sequence_span
from protocol.errors import EngineError
from protocol.route import Span
from protocol.sampling import SamplingParameters

__all__ = ["MLXEngine"]


class MLXEngine(Engine):
    """One shard in this process, used from the thread that loaded it."""

    def __init__(self, spec: ShardSpec, shard: Shard) -> None:
        self._spec = spec
        self._shard = shard
        self._info = self._describe()
        self._sequences: dict[int, OpenSequence] = {}
        self._budget: KVBudget[KVSequence] = KVBudget(
            spec.kv_tokens, KVSequence.cut, rounding_tokens=BLOCK_ROWS
        )
        self._steps = 0
        self._rows = 0
        self._busy_s = 0.0

    @property
    def info(self) -> EngineInfo:
        return self._info

    def _describe(self) -> EngineInfo:
        fields = self._shard.config.fields
        return EngineInfo(
            backend="mlx",
            family=self._shard.config.family,
            span=self._spec.span,
            layers=self._shard.config.layers,
            hidden_size=fields["hidden_size"],
            vocabulary_size=fields["vocab_size"],
            context_tokens=fields["max_position_embeddings"],
            weight_bytes=self._shard.weight_bytes,
            kv_bytes_per_token=len(self._spec.span) * self._shard.kv_shape.bytes_per_token,
        )

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
        """As the interface says; StepInvalid also for a capacity above the model's context.

        A shard without layers keeps no KV and reserves nothing.
        """
        if sequence_id in self._sequences:
            raise StepInvalid(f"Sequence {sequence_id} is open already.")
        context = self._info.context_tokens
        if not 0 < capacity_tokens <= context:
            raise StepInvalid(f"{capacity_tokens} tokens do not fit the model's context {context}.")
        validate_drawn(drawn, drawn_at, capacity_tokens, vocabulary_size=self._info.vocabulary_size)
        layers = sequence_span(span, self._spec.span)
        kv = self._open_kv(capacity_tokens, layers, prefix) if len(self._spec.span) else None
        sampler = SamplerState(drawn, drawn_at)
        self._sequences[sequence_id] = OpenSequence(capacity_tokens, layers, sampling, kv, sampler)
        return kv.length if kv is not None else 0

    def _open_kv(self, capacity_tokens: int, span: Span, prefix: Sequence[bytes]) -> KVSequence:
        with mx.stream(self._shard.device):
            found = self._budget.open(capacity_tokens, span, prefix)
            if found is None:
                return KVSequence(self._shard.kv_shape, len(span))
            if not found.is_taken:
                return found.rows.share(found.tokens)
            found.rows.length = found.tokens
            return found.rows

    def step(self, batch: Sequence[StepItem]) -> list[StepResult | EngineError]:
        started = time.perf_counter()
        results: dict[int, StepResult | EngineError] = {}
        with mx.stream(self._shard.device):
            works = self._accept(batch, results)
            if works:
                results |= self._run(works)
        self._steps += 1
        self._rows += sum(work.item.count for work in works)
        self._busy_s += time.perf_counter() - started
        return [results[index] for index in range(len(batch))]

    def truncate(self, sequence_id: int, position: int) -> None:
        """As the interface says; StepInvalid for an unknown sequence or a position it has not."""
        sequence = self._sequences.get(sequence_id)
        if sequence is None:
            raise StepInvalid(f"Sequence {sequence_id} is not open.")
        if position < 0 or (sequence.kv is not None and position > sequence.kv.length):
            raise StepInvalid(f"A sequence of {sequence.length} rows has no position {position}.")
        sequence.truncate(position)

    def close(self, sequence_id: int, *, keep: Sequence[bytes] = ()) -> None:
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is not None and sequence.kv is not None:
            with mx.stream(self._shard.device):
                self._budget.close(
                    sequence.capacity_tokens, sequence.span, sequence.kv, sequence.length, keep
                )

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(
            sequences=len(self._sequences),
            kv_tokens_reserved=self._budget.reserved_tokens,
            kv_tokens_max=self._spec.kv_tokens,
            steps=self._steps,
            rows=self._rows,
            busy_s=self._busy_s,
            kv_tokens_cached=self._budget.cached_tokens,
            reused_tokens=self._budget.reused_tokens,
        )

    def _accept(
        self, batch: Sequence[StepItem], results: dict[int, StepResult | EngineError]
    ) -> list[Work]:
        """The items that fit; for the others StepInvalid goes into `results`."""
        works: list[Work] = []
        seen: set[int] = set()
        for index, item in enumerate(batch):
            sequence = self._sequences.get(item.sequence_id)
            fault = self._find_fault(item, sequence, seen)
            if fault is not None or sequence is None:
                results[index] = fault or StepInvalid(f"Sequence {item.sequence_id} is not open.")
                continue
            seen.add(item.sequence_id)
            voided = sequence.sampler.since(item.first_drawn)
            works.append(Work(index, item, sequence, rows_of(item, self._shard), voided))
        return works

    def _run(self, works: list[Work]) -> dict[int, StepResult | EngineError]:
        """What the works yield; all of them an error where there is no memory to compute them."""
        try:
            return run_batch(works, self._shard)
        except (MemoryError, RuntimeError) as error:
            for work in works:
                work.undo()
            # MLX says RuntimeError, of "[malloc]" and "[metal::malloc]"
            if isinstance(error, RuntimeError) and "malloc" not in str(error):
                raise
            fault = EngineError(
                "The machine has no memory for this step.",
                hint="Send smaller steps, or give the node less KV.",
            )
            return dict.fromkeys((work.index for work in works), fault)

    def _find_fault(
        self, item: StepItem, sequence: OpenSequence | None, seen: set[int]
    ) -> StepInvalid | None:
        if sequence is None:
            return None
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
