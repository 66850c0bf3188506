"""Keys and values of every sequence over the shard's own layers.

A sequence's rows lie in one slot of a slab, contiguous per layer and KV head, which is what
attention kernels want and what makes truncation exact: forgetting is lowering a length. A slot
that is full moves to a slab of twice the rows. Slabs hold several slots of one size, so that
single-row decodes of neighbouring slots are one call into the attention kernel instead of one
each; slabs of long slots hold only one.

The engine owns the store; only `PackedStep` writes rows, only after `make_room`.
"""

from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["KVSequence", "KVStore", "Slab"]

SLOT_ROWS_MIN = 64
"""Rows of a fresh slot: a short prompt fits, and four doublings reach 1024."""

SLAB_ROWS = 4096
"""Rows of all slots of a slab together: 64 short sequences, 4 of 1024 rows, or one long one."""


class Slab:
    """Slots of one size. `keys`, `values`: (layers, slots, kv_heads, slot_rows, head_dim)."""

    __slots__ = ("_free", "keys", "slot_rows", "slots", "values")

    def __init__(
        self,
        *,
        layers: int,
        slots: int,
        kv_heads: int,
        slot_rows: int,
        head_dim: int,
        dtype: torch.dtype,
    ) -> None:
        # In memory a slot holds all its layers in one piece, so that an unused slot takes no
        # pages even where the system hands out large ones.
        shape = (slots, layers, kv_heads, slot_rows, head_dim)
        self.keys = _lazy_zeros(shape, dtype).transpose(0, 1)
        self.values = _lazy_zeros(shape, dtype).transpose(0, 1)
        self.slots = slots
        self.slot_rows = slot_rows
        self._free = list(range(slots - 1, -1, -1))

    @property
    def is_full(self) -> bool:
        return not self._free

    @property
    def is_empty(self) -> bool:
        return len(self._free) == self.slots

    def take(self) -> int:
        """The lowest free slot: sequences stay close together, so that groups stay dense."""
        self._free.sort(reverse=True)
        return self._free.pop()

    def give_back(self, slot: int) -> None:
        self._free.append(slot)


@dataclass(slots=True, eq=False)
class KVSequence:
    """Where one sequence's rows lie. `length` rows are valid; the engine advances it."""

    capacity_tokens: int
    slab: Slab
    slot: int
    length: int = 0


class KVStore:
    """All slabs of one engine. Reservation against the budget is the engine's business."""

    def __init__(self, *, layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
        self._layers = layers
        self._kv_heads = kv_heads
        self._head_dim = head_dim
        self._dtype = dtype
        self._slabs: list[Slab] = []

    @property
    def bytes_per_token(self) -> int:
        return 2 * self._layers * self._kv_heads * self._head_dim * self._dtype.itemsize

    def open(self, capacity_tokens: int) -> KVSequence:
        slab = self._slab_for(1, capacity_tokens)
        return KVSequence(capacity_tokens=capacity_tokens, slab=slab, slot=slab.take())

    def close(self, sequence: KVSequence) -> None:
        self._release(sequence.slab, sequence.slot)

    def make_room(self, sequence: KVSequence, rows: int) -> None:
        """See that rows up to `length + rows` fit the slot, moving the sequence if they do not."""
        needed = sequence.length + rows
        old, old_slot = sequence.slab, sequence.slot
        if needed <= old.slot_rows:
            return
        new = self._slab_for(needed, sequence.capacity_tokens)
        slot = new.take()
        for target, source in ((new.keys, old.keys), (new.values, old.values)):
            target[:, slot, :, : sequence.length] = source[:, old_slot, :, : sequence.length]
        sequence.slab, sequence.slot = new, slot
        self._release(old, old_slot)

    def erase(self, sequence: KVSequence, rows: int) -> None:
        """Zero the `rows` rows after the valid ones: NaN there would reach a neighbour's sums."""
        end = sequence.length + rows
        for tensor in (sequence.slab.keys, sequence.slab.values):
            tensor[:, sequence.slot, :, sequence.length : end] = 0

    def _slab_for(self, rows: int, capacity_tokens: int) -> Slab:
        slot_rows = max(SLOT_ROWS_MIN, 1 << (rows - 1).bit_length())
        if slot_rows >= SLAB_ROWS:
            slot_rows = min(slot_rows, max(SLAB_ROWS, capacity_tokens))
        for slab in self._slabs:
            if slab.slot_rows == slot_rows and not slab.is_full:
                return slab
        slots = max(1, SLAB_ROWS // slot_rows)
        slab = Slab(
            layers=self._layers,
            slots=slots,
            kv_heads=self._kv_heads,
            slot_rows=slot_rows,
            head_dim=self._head_dim,
            dtype=self._dtype,
        )
        self._slabs.append(slab)
        return slab

    def _release(self, slab: Slab, slot: int) -> None:
        slab.give_back(slot)
        if slab.is_empty:
            self._slabs.remove(slab)


def _lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros whose pages are only taken when written: numpy asks the system for zeroed memory,
    while torch.zeros writes it. Zeroed, because masked rows still enter sums (0 x NaN is NaN).
    """
    bits = np.zeros(shape, dtype=np.uint16 if dtype.itemsize == 2 else np.uint32)
    return torch.from_numpy(bits).view(dtype)
