"""Ragged, packed attention: rows of many sequences laid end to end, without padding.

Every layer of a step asks the same `PackedStep`, which the caller hands down as the keyword
`packed_step`: transformers passes unknown keywords through to the attention function, so no state
is shared between engines of one process. The step files the new keys and values into each
sequence's slot and attends each sequence's rows to its own rows only.

Rows of one step are cut into runs: a `GroupRun` decodes one row each of neighbouring slots in one
kernel call; a `SequenceRun` holds any number of rows of one sequence.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from node.engine.errors import ModelUnsupported
from node.engine.torch_backend.kv import KVSequence
from node.engine.torch_backend.runs import GroupRun, Run, SequenceRun

__all__ = ["ATTENTION_NAME", "PackedStep", "register_attention", "sort_for_packing"]

ATTENTION_NAME = "piecework_packed"

GROUP_DENSITY_MIN = 0.5
"""A group reads all slots between its first and last; below this share it would mostly read rows
that nobody asked for."""


def register_attention() -> None:
    """Make `packed_attention` known to transformers by name. Idempotent."""
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, packed_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, lambda *_, **__: None)


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    packed_step: "PackedStep",
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """What a transformers attention layer calls: query (1, heads, N, head_dim), N packed rows.

    Returns (1, N, heads, head_dim). The mask is None: `packed_step` knows who sees whom.
    """
    if softcap is not None or s_aux is not None or attention_mask is not None:
        raise ModelUnsupported("Attention with a softcap, sinks or a mask of its own.")
    rows = packed_step.attend(
        module.layer_idx,
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        scaling=scaling,
        window=sliding_window,
    )
    return rows.unsqueeze(0), None


def sort_for_packing(items: Sequence[tuple[KVSequence, int]]) -> list[int]:
    """The order in which (sequence, rows) pairs should be packed so that groups lie together."""
    slab_order = {id(sequence.slab): index for index, (sequence, _) in enumerate(items)}

    def place(index: int) -> tuple[bool, int, int]:
        sequence, rows = items[index]
        return rows > 1, slab_order[id(sequence.slab)], sequence.slot

    return sorted(range(len(items)), key=place)


class PackedStep:
    """Who the rows of one step belong to. Made per step, after `KVStore.make_room`.

    `items`: (sequence, rows) in the order of `sort_for_packing`. `first_layer` is the global index
    of the slabs' first layer.
    """

    def __init__(self, items: Sequence[tuple[KVSequence, int]], first_layer: int) -> None:
        self._first_layer = first_layer
        self._dtype = items[0][0].slab.keys.dtype
        self._runs: list[Run] = []
        self._row_counts: list[int] = []
        start = 0
        while start < len(items):
            end = _group_end(items, start)
            if end - start > 1:
                self._add(GroupRun([sequence for sequence, _ in items[start:end]]), end - start)
            else:
                sequence, rows = items[start]
                self._add(SequenceRun(sequence, rows), rows)
            start = end

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scaling: float,
        window: int | None,
    ) -> torch.Tensor:
        """File the layer's new rows and attend. All (N, heads or kv_heads, head_dim).

        Attention runs in the dtype of the KV rows; the result has the query's.
        """
        attended = self._attend(layer, query.to(self._dtype), key, value, scaling, window)
        return attended.to(query.dtype)

    def _attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        window: int | None,
    ) -> torch.Tensor:
        local_layer = layer - self._first_layer
        kv_heads = key.shape[1]
        if len(self._runs) == 1:
            (run,) = self._runs
            run.file(local_layer, key, value)
            return run.attend(local_layer, query, kv_heads, scaling, window)
        counts = self._row_counts
        parts = zip(
            self._runs, query.split(counts), key.split(counts), value.split(counts), strict=True
        )
        attended = []
        for run, query_part, key_part, value_part in parts:
            run.file(local_layer, key_part, value_part)
            attended.append(run.attend(local_layer, query_part, kv_heads, scaling, window))
        return torch.cat(attended)

    def _add(self, run: Run, rows: int) -> None:
        self._runs.append(run)
        self._row_counts.append(rows)


def _group_end(items: Sequence[tuple[KVSequence, int]], start: int) -> int:
    """The end of the longest dense group of one-row items that begins at `start`."""
    first, rows = items[start]
    best = start + 1
    if rows != 1:
        return best
    for index in range(start + 1, len(items)):
        sequence, rows = items[index]
        if rows != 1 or sequence.slab is not first.slab:
            break
        if (index + 1 - start) >= GROUP_DENSITY_MIN * (sequence.slot + 1 - first.slot):
            best = index + 1
    return best
