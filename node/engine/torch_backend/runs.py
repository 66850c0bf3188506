"""How the rows of one step attend: one sequence's rows, or one row each of several sequences.

A run belongs to one step. It files its rows' new keys and values into their slots and computes
their attention. What it looks at, and who may see what, is found once a step and not once a layer;
layers differ only by their window.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from node.engine.torch_backend.kernels import Kernel
from node.engine.torch_backend.kv import KVSequence, Slab

__all__ = ["GroupRun", "Run", "SequenceRun"]

FOLD_ROWS_MAX = 32
"""Up to this many rows the query heads of a KV head are folded into its rows: one pass over the
keys instead of one per query head. Measured 6.5x faster for one row in bf16, equal at 64 rows."""


class _View:
    """The slab rows a run looks at, by layer, and what is added to the scores."""

    __slots__ = ("keys", "mask", "values")

    def __init__(self, slab: Slab, slots: slice, rows: slice, mask: torch.Tensor | None) -> None:
        self.keys = slab.keys[:, slots, :, rows].unbind(0)
        self.values = slab.values[:, slots, :, rows].unbind(0)
        self.mask = mask


class Run(ABC):
    """Some rows of a step that attend in one call."""

    def __init__(self) -> None:
        self._views: dict[int | None, _View] = {}

    @abstractmethod
    def file(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Write the rows' keys and values (rows, kv_heads, head_dim) into their slots."""

    @abstractmethod
    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        kv_heads: int,
        scaling: float,
        window: int | None,
        kernel: Kernel,
    ) -> torch.Tensor:
        """(rows, heads, head_dim) to (rows, heads, value_dim), after `file` for this layer.

        `layer` counts from the shard's first; `window` is how many rows a row sees, itself
        included; `kernel` is scaled_dot_product_attention or one of kernels.py.
        """

    def _view(self, window: int | None, group: int, dtype: torch.dtype) -> _View:
        view = self._views.get(window)
        if view is None:
            view = self._views[window] = self._make_view(window, group, dtype)
        return view

    @abstractmethod
    def _make_view(self, window: int | None, group: int, dtype: torch.dtype) -> _View: ...


class SequenceRun(Run):
    """Any number of rows of one sequence."""

    def __init__(self, sequence: KVSequence, rows: int) -> None:
        super().__init__()
        self._slab, self._slot = sequence.slab, sequence.slot
        self._rows = rows
        self._start, self._end = sequence.length, sequence.length + rows
        new = slice(self._start, self._end)
        self._new_keys = self._slab.keys[:, self._slot, :, new].unbind(0)
        self._new_values = self._slab.values[:, self._slot, :, new].unbind(0)

    def file(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        self._new_keys[layer].copy_(key.transpose(0, 1))
        self._new_values[layer].copy_(value.transpose(0, 1))

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        kv_heads: int,
        scaling: float,
        window: int | None,
        kernel: Kernel,
    ) -> torch.Tensor:
        rows, heads, head_dim = query.shape
        group = heads // kv_heads
        view = self._view(window, group, query.dtype)
        keys, values = view.keys[layer], view.values[layer]
        if rows > FOLD_ROWS_MAX:
            attended = kernel(
                query.transpose(0, 1).unsqueeze(0),
                keys,
                values,
                attn_mask=view.mask,
                is_causal=view.mask is None,
                scale=scaling,
                enable_gqa=group > 1,
            )
            return attended[0].transpose(0, 1)
        by_head = query.reshape(rows, kv_heads, group, head_dim).permute(1, 2, 0, 3)
        attended = kernel(
            by_head.reshape(1, kv_heads, group * rows, head_dim),
            keys,
            values,
            attn_mask=view.mask,
            scale=scaling,
        )
        by_row = attended.view(kv_heads, group, rows, -1).permute(2, 0, 1, 3)
        return by_row.reshape(rows, heads, -1)

    def _make_view(self, window: int | None, group: int, dtype: torch.dtype) -> _View:
        first = 0 if window is None else max(0, self._start + 1 - window)
        is_folded = self._rows <= FOLD_ROWS_MAX
        mask = None
        # One row sees all it looks at, and the kernel knows plain causality by itself.
        if self._rows > 1 and (is_folded or self._start > 0 or window is not None):
            positions = torch.arange(self._start, self._end, device=self._slab.keys.device)
            mask = _mask(positions, range(first, self._end), window, dtype)
            mask = mask.repeat(group, 1) if is_folded else mask
        slots = slice(self._slot, self._slot + 1)
        return _View(self._slab, slots, slice(first, self._end), mask)


class GroupRun(Run):
    """One row each of several sequences that lie close together in one slab, by rising slot."""

    def __init__(self, sequences: Sequence[KVSequence]) -> None:
        super().__init__()
        self._slab = sequences[0].slab
        slots = [sequence.slot for sequence in sequences]
        lengths = [sequence.length for sequence in sequences]
        self._slots = slice(slots[0], slots[-1] + 1)
        self._shortest, self._longest = min(lengths), max(lengths)
        device = self._slab.keys.device
        self._slot_index = torch.tensor(slots, device=device)
        self._positions = torch.tensor(lengths, device=device)
        self._keys = self._slab.keys.unbind(0)
        self._values = self._slab.values.unbind(0)
        # Slots in between that are not in the batch compute with some row; nobody reads theirs.
        slot_count = slots[-1] + 1 - slots[0]
        self._is_dense = slot_count == len(slots)
        self._local_slots = self._slot_index - slots[0]
        self._row_of_slot = torch.zeros(slot_count, dtype=torch.long, device=device)
        self._row_of_slot[self._local_slots] = torch.arange(len(slots), device=device)

    def file(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        keys, values = self._keys[layer], self._values[layer]
        keys[self._slot_index, :, self._positions] = key.to(keys.dtype)
        values[self._slot_index, :, self._positions] = value.to(values.dtype)

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        kv_heads: int,
        scaling: float,
        window: int | None,
        kernel: Kernel,
    ) -> torch.Tensor:
        _, heads, head_dim = query.shape
        group = heads // kv_heads
        view = self._view(window, group, query.dtype)
        by_slot = query if self._is_dense else query[self._row_of_slot]
        attended = kernel(
            by_slot.reshape(-1, kv_heads, group, head_dim),
            view.keys[layer],
            view.values[layer],
            attn_mask=view.mask,
            scale=scaling,
        )
        attended = attended.reshape(by_slot.shape[0], heads, -1)
        return attended if self._is_dense else attended[self._local_slots]

    def _make_view(self, window: int | None, group: int, dtype: torch.dtype) -> _View:
        first = 0 if window is None else max(0, self._shortest + 1 - window)
        rows = range(first, self._longest + 1)
        mask = _mask(self._positions[self._row_of_slot], rows, window, dtype)
        return _View(self._slab, self._slots, slice(rows.start, rows.stop), mask[:, None, None, :])


def _mask(
    positions: torch.Tensor, seen: range, window: int | None, dtype: torch.dtype
) -> torch.Tensor:
    """(positions, seen): 0 where a row at a position sees a row, minus infinity elsewhere."""
    position = positions.unsqueeze(1)
    other = torch.arange(seen.start, seen.stop, device=position.device).unsqueeze(0)
    hidden = other > position
    if window is not None:
        hidden |= other <= position - window
    return torch.zeros(hidden.shape, dtype=dtype, device=position.device).masked_fill_(
        hidden, float("-inf")
    )
