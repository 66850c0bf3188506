"""`TorchEngine`: the Engine interface over one loaded shard.

A step checks each item by itself, packs the rows of the good ones end to end, runs the span's
layers once over all of them, and hands each item its wanted rows. Sequences advance only after the
last layer, so an item that fails leaves its sequence as it was.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch

from node.engine.base import (
    Engine,
    EngineInfo,
    EngineStatistics,
    Output,
    ShardSpec,
    StepItem,
    StepResult,
)
from node.engine.errors import StepInvalid
from node.engine.sampler import Logits, SamplerState, sample, validate_drawn
from node.engine.torch_backend.attention import PackedStep
from node.engine.torch_backend.batch import (
    OpenSequence,
    Work,
    gather_hidden,
    gather_positions,
    pack,
)
from node.engine.torch_backend.heap import give_back_freed
from node.engine.torch_backend.kv import KVStore
from node.engine.torch_backend.kv_admission import KVAdmission
from node.engine.torch_backend.pages import is_out_of_memory
from node.engine.torch_backend.rows import to_wire_all
from node.engine.torch_backend.shard import Shard
from node.engine.validation import find_fault, sequence_span
from protocol.errors import EngineError
from protocol.route import Span
from protocol.sampling import SamplingParameters

__all__ = ["TorchEngine"]

Results = dict[int, StepResult | EngineError]
"""By the item's index in the batch."""

GIVE_BACK_STEP_ROWS = 64
"""Steps of more rows are prefills, long enough that giving their memory back is not felt."""


class TorchEngine(Engine):
    """One shard in this process. Not thread-safe."""

    def __init__(self, spec: ShardSpec, shard: Shard) -> None:
        config = shard.config
        self._spec = spec
        self._shard = shard
        store = KVStore(
            layers=len(spec.span),
            kv_heads=shard.kv_heads,
            key_dim=shard.key_dim,
            value_dim=shard.value_dim,
            dtype=shard.dtype,
            kv_tokens=spec.kv_tokens,
            device=shard.device,
        )
        self._kv = KVAdmission(store, spec.kv_tokens)
        self._info = EngineInfo(
            backend="torch",
            family=shard.family,
            span=spec.span,
            layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            vocabulary_size=config.vocab_size,
            context_tokens=shard.context_tokens,
            weight_bytes=shard.weight_bytes,
            kv_bytes_per_token=store.bytes_per_token,
        )
        self._sequences: dict[int, OpenSequence] = {}
        self._steps = 0
        self._rows = 0
        self._busy_s = 0.0
        give_back_freed()  # what loading left

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
        """As the interface says; StepInvalid also for a capacity above the model's context.

        A shard without layers keeps no KV, reserves nothing and has no prefix to reuse.
        """
        if sequence_id in self._sequences:
            raise StepInvalid(f"Sequence {sequence_id} is open already.")
        if not 0 < capacity_tokens <= self._info.context_tokens:
            raise StepInvalid(
                f"A sequence of {capacity_tokens} tokens does not fit the model's context of "
                f"{self._info.context_tokens}."
            )
        validate_drawn(drawn, drawn_at, capacity_tokens, vocabulary_size=self._info.vocabulary_size)
        layers = sequence_span(span, self._spec.span)
        kv = None
        if len(self._spec.span):
            kv = self._kv.open(capacity_tokens, layers, prefix)
        sampler = SamplerState(drawn, drawn_at)
        sequence = OpenSequence(capacity_tokens, layers, kv, sampling, sampler)
        self._sequences[sequence_id] = sequence
        return sequence.length

    def step(self, batch: Sequence[StepItem]) -> list[StepResult | EngineError]:
        started = time.perf_counter()
        results: Results = {}
        works = self._accept(batch, results)
        if works:
            with torch.inference_mode():
                for span in {work.sequence.span for work in works}:
                    same = [work for work in works if work.sequence.span == span]
                    self._run_or_undo(same, span, results)
        rows = sum(work.item.count for work in works)
        if rows > GIVE_BACK_STEP_ROWS:
            give_back_freed()
        self._steps += 1
        self._rows += rows
        self._busy_s += time.perf_counter() - started
        return [results[index] for index in range(len(batch))]

    def truncate(self, sequence_id: int, position: int) -> None:
        """As the interface says; StepInvalid for an unknown sequence or a position it has not."""
        sequence = self._sequences.get(sequence_id)
        if sequence is None:
            raise StepInvalid(f"Sequence {sequence_id} is not open.")
        if position < 0 or (sequence.kv is not None and position > sequence.kv.length):
            raise StepInvalid(f"Sequence {sequence_id} has no position {position}.")
        sequence.sampler.forget_rows(position, None if sequence.kv is None else sequence.length)
        if sequence.kv is not None:
            self._kv.truncate(sequence.kv, position)

    def close(self, sequence_id: int, *, keep: Sequence[bytes] = ()) -> None:
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is not None and sequence.kv is not None:
            self._kv.close(sequence.kv, sequence.capacity_tokens, sequence.span, keep)

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(
            sequences=len(self._sequences),
            kv_tokens_reserved=self._kv.budget.reserved_tokens,
            kv_tokens_max=self._spec.kv_tokens,
            steps=self._steps,
            rows=self._rows,
            busy_s=self._busy_s,
            kv_tokens_cached=self._kv.budget.cached_tokens,
            reused_tokens=self._kv.budget.reused_tokens,
        )

    def _accept(self, batch: Sequence[StepItem], results: Results) -> list[Work]:
        """The items that fit; for the others StepInvalid goes into `results`."""
        works: list[Work] = []
        seen: set[int] = set()
        for index, item in enumerate(batch):
            sequence = self._sequences.get(item.sequence_id)
            fault = self._find_fault(item, sequence)
            if item.sequence_id in seen:
                fault = StepInvalid(f"Sequence {item.sequence_id} stands in the batch twice.")
            seen.add(item.sequence_id)
            if fault is not None or sequence is None:
                results[index] = fault or StepInvalid(f"Sequence {item.sequence_id} is not open.")
            else:
                voided = sequence.sampler.since(item.first_drawn)
                works.append(Work(index, item, sequence, voided))
        return works

    def _find_fault(self, item: StepItem, sequence: OpenSequence | None) -> StepInvalid | None:
        if sequence is None:
            return None
        return find_fault(
            item,
            self._spec,
            self._info,
            length=sequence.length,
            capacity=sequence.capacity_tokens,
            has_sampling=sequence.sampling is not None,
        )

    def _run_or_undo(self, works: list[Work], span: Span, results: Results) -> None:
        """As `_run`; without memory for it, no sequence has moved and every item gets an error."""
        try:
            self._run(works, span, results)
        except (MemoryError, RuntimeError) as error:
            for work in works:
                self._undo(work)
            if not is_out_of_memory(error):
                raise
            for work in works:
                results[work.index] = EngineError(
                    "The machine has no memory for this step.",
                    hint="Send smaller steps, or give the node less KV.",
                )

    def _run(self, works: list[Work], span: Span, results: Results) -> None:
        """Run the rows of items that use the same layers, and put in each one's result."""
        works = pack(works)
        shard = self._shard
        hidden = gather_hidden(
            works, shard.embedding, self._info.hidden_size, shard.dtype, shard.device
        )
        if shard.stack is not None:
            pairs = [(work.sequence.kv, work.item.count) for work in works if work.sequence.kv]
            packed_step = PackedStep(pairs, self._spec.span.start)
            first = self._spec.span.start
            layers = slice(span.start - first, span.end - first)
            positions = gather_positions(works, shard.device)
            hidden = shard.stack(hidden, positions, packed_step, layers)
            for sequence, count in pairs:
                sequence.length += count
        self._emit(self._drop_broken(works, hidden, results), hidden, results)

    def _drop_broken(self, works: list[Work], hidden: torch.Tensor, results: Results) -> list[Work]:
        """The works whose rows are all numbers; the others are undone and get an EngineError."""
        if bool(torch.isfinite(hidden).all()):
            return works
        whole = []
        for work in works:
            if bool(torch.isfinite(hidden[work.rows]).all()):
                whole.append(work)
            else:
                self._undo(work)
                results[work.index] = EngineError("The layers gave NaN or infinity.")
        return whole

    def _emit(self, works: list[Work], hidden: torch.Tensor, results: Results) -> None:
        sampled = [work for work in works if work.item.output is Output.TOKENS]
        sent = [work for work in works if work.item.output is Output.HIDDEN]
        parts = [(work.wanted_rows, work.item.wire_dtype) for work in sent]
        for work, array in zip(sent, to_wire_all(parts, hidden), strict=True):
            results[work.index] = StepResult(hidden=array)
        if not sampled:
            return
        logits = self._shard.logits(torch.cat([hidden[work.wanted_rows] for work in sampled]))
        ends = np.cumsum([work.item.wanted for work in sampled])
        for work, rows in zip(sampled, np.split(logits, ends[:-1]), strict=True):
            results[work.index] = self._sample(work, rows)

    def _sample(self, work: Work, logits: Logits) -> StepResult | EngineError:
        """Draw a token for each wanted row. `logits`: (wanted, vocabulary)."""
        item, sequence = work.item, work.sequence
        assert sequence.sampling is not None
        tokens = np.empty(item.wanted, dtype=np.int32)
        try:
            for index, row in enumerate(logits):
                place = item.first_drawn + index
                tokens[index] = sample(row, sequence.sampling, sequence.sampler, place)
        except EngineError as error:
            self._undo(work)
            return error
        return StepResult(tokens=tokens)

    def _undo(self, work: Work) -> None:
        """Leave the sequence as it was before the step."""
        sequence = work.sequence
        if sequence.kv is not None:
            self._kv.undo(sequence.kv, work.item.position)
        sequence.sampler.put_back(work.item.first_drawn, work.voided)
