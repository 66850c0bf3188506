"""The accepted items of one step, laid end to end: who has which rows, and what goes in.

No engine state here: `TorchEngine` decides what is accepted, and these functions pack it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from node.engine.base import StepItem
from node.engine.sampler import SamplerState
from node.engine.torch_backend.attention import sort_for_packing
from node.engine.torch_backend.kv import KVSequence
from node.engine.torch_backend.rows import from_wire_all
from protocol.route import Span
from protocol.sampling import SamplingParameters

__all__ = ["OpenSequence", "Work", "gather_hidden", "gather_positions", "pack"]


@dataclass(slots=True, eq=False)
class OpenSequence:
    """One open sequence of the engine. `kv` is None on a shard without layers."""

    capacity_tokens: int
    span: Span
    """The layers its rows run through."""
    kv: KVSequence | None
    sampling: SamplingParameters | None
    sampler: SamplerState

    @property
    def length(self) -> int:
        return 0 if self.kv is None else self.kv.length


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """An accepted item: its index in the batch, and its rows [start, start + count) of the pack."""

    index: int
    item: StepItem
    sequence: OpenSequence
    voided: Mapping[int, int]
    """Of the sampler's tokens, those that what this draws would take the place of."""
    start: int = 0

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.item.count)

    @property
    def wanted_rows(self) -> slice:
        end = self.start + self.item.count
        return slice(end - self.item.wanted, end)


def pack(works: Sequence[Work]) -> list[Work]:
    """The works in the order that suits attention, each with its place."""
    pairs = [(work.sequence.kv, work.item.count) for work in works if work.sequence.kv is not None]
    order = sort_for_packing(pairs) if pairs else range(len(works))
    placed = []
    start = 0
    for index in order:
        placed.append(replace(works[index], start=start))
        start += works[index].item.count
    return placed


def gather_positions(works: Sequence[Work], device: torch.device) -> torch.Tensor:
    """The position of every row, (rows,) int64."""
    starts = np.array([work.item.position - work.start for work in works])
    counts = np.array([work.item.count for work in works])
    positions = np.repeat(starts, counts) + np.arange(counts.sum())
    return torch.from_numpy(positions).to(device)


def gather_hidden(
    works: Sequence[Work],
    embedding: nn.Module | None,
    hidden_size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """Embedded tokens and received hidden states in packing order, (rows, hidden_size)."""
    tokens = [work.item.tokens for work in works if work.item.tokens is not None]
    embedded = None
    if tokens:
        assert embedding is not None
        embedded = embedding(torch.from_numpy(np.concatenate(tokens)).to(device))
        if len(tokens) == len(works):
            return embedded
    hidden = torch.empty(works[-1].rows.stop, hidden_size, dtype=dtype, device=device)
    used = 0
    received = []
    for work in works:
        if work.item.hidden is not None:
            received.append((work.rows, work.item.wire_dtype, work.item.hidden))
        elif embedded is not None:
            hidden[work.rows] = embedded[used : used + work.item.count]
            used += work.item.count
    from_wire_all(received, hidden)
    return hidden
