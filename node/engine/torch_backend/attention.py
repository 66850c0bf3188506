"""Ragged, packed attention: rows of many sequences laid end to end, without padding.

Every layer of a step asks the same `PackedStep`, which the caller hands down as the keyword
`packed_step`: transformers passes unknown keywords through to the attention function, so no state
is shared between engines of one process. The step files the new keys and values into each
sequence's slot and attends each sequence's rows to its own rows only.

Rows of one step are cut into runs: a `GroupRun` decodes one row each of neighbouring slots in one
kernel call; a `SequenceRun` holds any number of rows of one sequence.

What a family's attention needs beyond that is chosen once, by the name under which transformers
finds the function: plain rows go straight into torch's kernel.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from node.engine.errors import ModelUnsupported
from node.engine.torch_backend.families import LATENT_FAMILIES
from node.engine.torch_backend.kernels import (
    Kernel,
    capped_attention,
    latent_attention,
    sink_attention,
)
from node.engine.torch_backend.kv import KVSequence
from node.engine.torch_backend.runs import GroupRun, Run, SequenceRun

__all__ = ["PackedStep", "attention_name", "register_attention", "sort_for_packing"]

PLAIN = "piecework_packed"
CAPPED = "piecework_capped"
SINKS = "piecework_sinks"
LATENT = "piecework_latent"

CALL_ROWS = 128
"""A call into the kernel takes about as long as reading so many rows of one sequence (measured
with 8 KV heads of 64 in bf16), so this is what joining a group may waste."""


def attention_name(family: str, config: Any) -> str:
    """Under which name a model of this family finds its attention; `config` is transformers'."""
    if family in LATENT_FAMILIES:
        return LATENT
    if family == "gpt_oss":
        return SINKS
    if family == "gemma2" and config.attn_logit_softcapping is not None:
        return CAPPED
    return PLAIN


def register_attention() -> None:
    """Make the attention functions known to transformers by name. Idempotent."""
    functions = {
        PLAIN: packed_attention,
        CAPPED: packed_capped_attention,
        SINKS: packed_sink_attention,
        LATENT: packed_latent_attention,
    }
    for name, function in functions.items():
        ALL_ATTENTION_FUNCTIONS.register(name, function)
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, lambda *_, **__: None)


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
    kernel: Kernel = scaled_dot_product_attention,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """What a transformers attention layer calls: query (1, heads, N, head_dim), N packed rows.

    Returns (1, N, heads, value_dim). The mask is None: `packed_step` knows who sees whom.
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
        kernel=kernel,
    )
    return rows.unsqueeze(0), None


def packed_capped_attention(
    *arguments: Any, softcap: float, **options: Any
) -> tuple[torch.Tensor, None]:
    """As packed_attention, with scores held within +-softcap."""
    kernel = partial(capped_attention, cap=softcap)
    return packed_attention(*arguments, kernel=kernel, **options)


def packed_sink_attention(
    *arguments: Any, s_aux: torch.Tensor, **options: Any
) -> tuple[torch.Tensor, None]:
    """As packed_attention, with a sink per head, `s_aux` (heads,)."""
    return packed_attention(*arguments, kernel=partial(sink_attention, sinks=s_aux), **options)


def packed_latent_attention(
    module: Any, query: torch.Tensor, latent: torch.Tensor, *arguments: Any, **options: Any
) -> tuple[torch.Tensor, None]:
    """As packed_attention, for a module that `keep_latents` prepared.

    query: (1, heads, N, nope + rope); latent: (1, 1, N, rank); then rotated keys (1, 1, N, rope).
    Only latents and rotated keys are filed.
    """
    projection = module.latent_projection
    query = projection.into_latents(query[0]).unsqueeze(0)
    rows, _ = packed_attention(
        module, query, latent, *arguments, kernel=latent_attention, **options
    )
    return projection.out_of_latents(rows[0]).unsqueeze(0), None


def sort_for_packing(items: Sequence[tuple[KVSequence, int]]) -> list[int]:
    """The order in which (sequence, rows) pairs should be packed so that groups lie together."""
    slab_order = {id(sequence.slab): index for index, (sequence, _) in enumerate(items)}

    def place(index: int) -> tuple[bool, int, int]:
        sequence, rows = items[index]
        return rows > 1, slab_order[id(sequence.slab)], sequence.slot

    return sorted(range(len(items)), key=place)


class PackedStep:
    """Who the rows of one step belong to. Made per step.

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
        kernel: Kernel = scaled_dot_product_attention,
    ) -> torch.Tensor:
        """File the layer's new rows and attend. All (N, heads or kv_heads, head_dim).

        Attention runs in the dtype of the KV rows; the result has the query's.
        """
        attended = self._attend(layer, query.to(self._dtype), key, value, scaling, window, kernel)
        return attended.to(query.dtype)

    def _attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        window: int | None,
        kernel: Kernel,
    ) -> torch.Tensor:
        local_layer = layer - self._first_layer
        kv_heads = key.shape[1]
        if len(self._runs) == 1:
            (run,) = self._runs
            run.file(local_layer, key, value)
            return run.attend(local_layer, query, kv_heads, scaling, window, kernel)
        counts = self._row_counts
        parts = zip(
            self._runs, query.split(counts), key.split(counts), value.split(counts), strict=True
        )
        attended = []
        for run, query_part, key_part, value_part in parts:
            run.file(local_layer, key_part, value_part)
            attended.append(run.attend(local_layer, query_part, kv_heads, scaling, window, kernel))
        return torch.cat(attended)

    def _add(self, run: Run, rows: int) -> None:
        self._runs.append(run)
        self._row_counts.append(rows)


def _group_end(items: Sequence[tuple[KVSequence, int]], start: int) -> int:
    """The end of the group of one-row items that begins at `start`, as far as it is worth one call.

    A group reads as many rows as its longest sequence has, of every slot from first to last.
    """
    first, rows = items[start]
    end = start + 1
    if rows != 1:
        return end
    longest, last_slot = first.length + 1, first.slot
    for sequence, rows in items[end:]:
        if rows != 1 or sequence.slab is not first.slab:
            break
        own = sequence.length + 1
        joined = max(longest, own)
        together = joined * (sequence.slot + 1 - first.slot)
        if together > longest * (last_slot + 1 - first.slot) + own + CALL_ROWS:
            break
        longest, last_slot, end = joined, sequence.slot, end + 1
    return end
