"""One step: the accepted items through the layers group by group, and what each one yields.

All of it is one lazy graph until `run_batch` evaluates it, once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from node.engine.base import Output, StepItem, StepResult
from node.engine.mlx_backend.grouping import Lane, plan_groups
from node.engine.mlx_backend.kv import KVSequence, gather
from node.engine.mlx_backend.rows import from_wire, to_lazy, to_wire
from node.engine.mlx_backend.shard import Shard
from node.engine.sampler import Logits, SamplerState, sample
from protocol.errors import EngineError
from protocol.route import Span
from protocol.sampling import SamplingParameters

__all__ = ["OpenSequence", "Work", "run_batch"]


@dataclass(slots=True, eq=False)
class OpenSequence:
    """One open sequence. On a shard without layers there is no KV and no length."""

    capacity_tokens: int
    span: Span
    sampling: SamplingParameters | None
    kv: KVSequence | None
    sampler: SamplerState

    @property
    def length(self) -> int:
        return 0 if self.kv is None else self.kv.length

    def truncate(self, position: int) -> None:
        self.sampler.forget_rows(position, None if self.kv is None else self.length)
        if self.kv is not None:
            self.kv.length = position


@dataclass(slots=True, eq=False)
class Work:
    """An accepted item, its sequence, and its rows: before the layers, then after them."""

    index: int
    """Of the item in the batch."""
    item: StepItem
    sequence: OpenSequence
    rows: mx.array
    """(count, hidden_size) in the shard's dtype, lazy."""
    voided: Mapping[int, int]
    """Of the sampler's tokens, those that what this draws would take the place of."""

    @property
    def wanted_rows(self) -> mx.array:
        return self.rows[self.item.count - self.item.wanted :]

    def undo(self) -> None:
        """Leave the sequence as it was before the step."""
        sequence, item = self.sequence, self.item
        if sequence.kv is not None:
            sequence.kv.length = item.position
            sequence.kv.erase(item.count)
        sequence.sampler.put_back(item.first_drawn, self.voided)


def rows_of(item: StepItem, shard: Shard) -> mx.array:
    """What the item brings, as rows of the residual stream: (count, hidden_size), lazy."""
    if item.tokens is not None:
        return shard.embed(item.tokens)
    assert item.hidden is not None
    hidden_size = shard.config.fields["hidden_size"]
    return from_wire(item.hidden, item.wire_dtype, hidden_size).astype(shard.dtype)


def run_batch(works: Sequence[Work], shard: Shard) -> dict[int, StepResult | EngineError]:
    """Run all works; what each yields, by its index."""
    held: list[mx.array] = []
    if len(shard.spec.span):
        for span in dict.fromkeys(work.sequence.span for work in works):
            same = [work for work in works if work.sequence.span == span]
            for indexes in plan_groups([_lane(work) for work in same]):
                held += _run_group([same[index] for index in indexes], span, shard)
    sampled = [work for work in works if _is_sampled(work)]
    hidden = [to_lazy(work.wanted_rows, work.item.wire_dtype) for work in works]
    finite = mx.stack([mx.isfinite(work.rows).all() for work in works])
    logits = mx.zeros((0, 0))
    if sampled:
        logits = shard.logits(mx.concatenate([work.wanted_rows for work in sampled]))
    # KV too: an item that wants no row has no outcome that would pull it along.
    mx.eval(finite, logits, hidden, held)
    drawn = iter(np.split(np.array(logits), np.cumsum([work.item.wanted for work in sampled])))
    results: dict[int, StepResult | EngineError] = {}
    for work, lazy, is_finite in zip(works, hidden, finite.tolist(), strict=True):
        ours = next(drawn) if _is_sampled(work) else np.empty((0, 0), np.float32)
        results[work.index] = _finish(work, lazy, ours) if is_finite else _broken(work)
    return results


def _lane(work: Work) -> Lane:
    sequence = work.sequence
    return Lane(sequence.length, work.item.count, sequence.capacity_tokens)


def _run_group(works: list[Work], span: Span, shard: Shard) -> list[mx.array]:
    """One pass; puts each work's rows after the layers in it. Gives what must be evaluated."""
    by_kv = {work.sequence.kv: work for work in works}
    group = gather([kv for kv in by_kv if kv is not None])
    works = [by_kv[member] for member in group.members]
    counts = [work.item.count for work in works]
    rows = mx.stack([_padded(work.rows, max(counts)) for work in works])
    rows = shard.run(rows, span, group, counts)
    for lane, work in enumerate(works):
        work.rows = rows[lane, : work.item.count]
    return group.arrays


def _padded(rows: mx.array, count: int) -> mx.array:
    return rows if len(rows) == count else mx.pad(rows, ((0, count - len(rows)), (0, 0)))


def _is_sampled(work: Work) -> bool:
    return work.item.output is Output.TOKENS


def _broken(work: Work) -> EngineError:
    work.undo()
    return EngineError("The layers gave NaN or infinity.")


def _finish(work: Work, hidden: mx.array, logits: Logits) -> StepResult | EngineError:
    """`hidden`: the wanted rows, evaluated. `logits`: (wanted, vocabulary), where sampled."""
    item, sequence = work.item, work.sequence
    if not _is_sampled(work):
        return StepResult(hidden=to_wire(hidden, item.wire_dtype))
    assert sequence.sampling is not None
    tokens = np.empty(item.wanted, np.int32)
    try:
        for index, row in enumerate(logits):
            place = item.first_drawn + index
            tokens[index] = sample(row, sequence.sampling, sequence.sampler, place)
    except EngineError as error:
        work.undo()
        return error
    return StepResult(tokens=tokens)
