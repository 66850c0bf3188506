"""Keys and values of every sequence over the shard's own layers.

A sequence's rows lie in one slot of a slab, contiguous per layer and KV head, which is what
attention kernels want and what makes truncation exact: forgetting is lowering a length. A slot has
addresses for the sequence's whole capacity from the start, so no step can find it full, and on
Linux memory only for the rows that were written (pages.py). A slab holds many slots of one size,
and single-row decodes of neighbouring slots are one call into the attention kernel.

The engine owns the store; only `PackedStep` writes rows. What may be opened is KVBudget's business.
"""

import mmap
from dataclasses import dataclass

import torch

from node.engine.errors import OutOfKV
from node.engine.torch_backend.pages import (
    DeviceRows,
    MappedRows,
    SlotRows,
    can_map,
    is_out_of_memory,
)

__all__ = ["KVSequence", "KVStore", "Slab"]

SLOT_ROWS_MIN = 64
"""Rows of the smallest slot: two pages of a KV head of 64 numbers in bf16."""

MAPPED_SLAB_SHARE = 2
"""A mapped slab's rows, over the budget's: all sequences whose capacity needs more than half of a
slot find room in one slab and can decode as one group. Addresses are free."""

DEVICE_SLAB_SHARE = 4
"""A device slab takes at most one part in so many of the budget: slots nobody uses are paid for."""

DEVICE_STEPS = 4
"""Sizes of device slots between two powers of two, so that rounding up costs a quarter at most."""


class Slab:
    """Slots of one size: (layers, slots, kv_heads, slot_rows, key_dim or value_dim)."""

    __slots__ = ("_free", "_rows", "keys", "slot_rows", "slots", "values")

    def __init__(self, keys: SlotRows, values: SlotRows) -> None:
        self._rows = (keys, values)
        # In memory a slot holds all its layers in one piece; its reader goes layer by layer.
        self.keys = keys.tensor.transpose(0, 1)
        self.values = values.tensor.transpose(0, 1)
        _, self.slots, _, self.slot_rows, _ = self.keys.shape
        self._free = list(range(self.slots - 1, -1, -1))

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
        self.forget(slot)
        self._free.append(slot)

    def forget(self, slot: int, *, first_row: int = 0) -> None:
        """Rows from `first_row` on become zeros, and their pages are given back."""
        for rows in self._rows:
            rows.forget(slot, first_row=first_row)

    def move_layer(
        self, layer: int, slot: int, target: "Slab", target_slot: int, rows: int
    ) -> None:
        """Copy a layer's first rows to another slab's slot, and give back all of its rows here."""
        target.keys[layer, target_slot, :, :rows] = self.keys[layer, slot, :, :rows]
        target.values[layer, target_slot, :, :rows] = self.values[layer, slot, :, :rows]
        for part in self._rows:
            part.forget_layer(slot, layer)


@dataclass(slots=True, eq=False)
class KVSequence:
    """Where one sequence's rows lie. `length` rows are valid; the engine advances it."""

    slab: Slab
    slot: int
    length: int = 0


class KVStore:
    """All slabs of one engine. One thread's."""

    def __init__(
        self,
        *,
        layers: int,
        kv_heads: int,
        key_dim: int,
        value_dim: int,
        dtype: torch.dtype,
        kv_tokens: int,
        device: torch.device | str = "cpu",
        is_mapped: bool | None = None,
    ) -> None:
        """`kv_tokens`: the budget, which sets how large slabs are. `is_mapped`: whether slots are
        pages taken as written; None where the device and the system can.
        """
        self._layers = layers
        self._kv_heads = kv_heads
        self._key_dim = key_dim
        self._value_dim = value_dim
        self._dtype = dtype
        self._kv_tokens = kv_tokens
        self._device = torch.device(device)
        self._is_mapped = can_map(self._device) if is_mapped is None else is_mapped
        self._slabs: list[Slab] = []

    @property
    def bytes_per_token(self) -> int:
        return self._layers * self._kv_heads * self._row_bytes

    @property
    def rounding_tokens(self) -> int:
        """How many rows take memory at once: a sequence of one row takes as much as these."""
        return -(-2 * mmap.PAGESIZE // self._row_bytes) if self._is_mapped else SLOT_ROWS_MIN

    @property
    def _row_bytes(self) -> int:
        return (self._key_dim + self._value_dim) * self._dtype.itemsize

    def open(self, capacity_tokens: int) -> KVSequence:
        """An empty slot of at least so many rows. Raises OutOfKV where the system has no memory."""
        slab = self._slab_of(self._slot_rows(capacity_tokens))
        return KVSequence(slab, slab.take())

    def close(self, sequence: KVSequence) -> None:
        sequence.slab.give_back(sequence.slot)
        if sequence.slab.is_empty:
            self._slabs.remove(sequence.slab)

    def forget(self, sequence: KVSequence, length: int) -> None:
        """Keep the first `length` rows: the others become zeros and their pages go back."""
        sequence.slab.forget(sequence.slot, first_row=length)
        sequence.length = length

    def copy(self, source: KVSequence, capacity_tokens: int, length: int) -> KVSequence:
        """A new sequence that begins with the first `length` rows of another. May raise OutOfKV."""
        made = self.open(capacity_tokens)
        for target, rows in (
            (made.slab.keys, source.slab.keys),
            (made.slab.values, source.slab.values),
        ):
            target[:, made.slot, :, :length] = rows[:, source.slot, :, :length]
        made.length = length
        return made

    def take_over(self, source: KVSequence, capacity_tokens: int, length: int) -> KVSequence:
        """As copy, but `source` is no more: its slot is used on, or moved layer by layer.

        On OutOfKV `source` is closed too.
        """
        if source.slab.slot_rows == self._slot_rows(capacity_tokens):
            self.forget(source, length)
            return source
        try:
            made = self.open(capacity_tokens)
            for layer in range(self._layers):
                source.slab.move_layer(layer, source.slot, made.slab, made.slot, length)
        finally:
            self.close(source)
        made.length = length
        return made

    def _slot_rows(self, capacity_tokens: int) -> int:
        """The size of the slot: few sizes, so that slabs are shared."""
        power = max(SLOT_ROWS_MIN, 1 << (capacity_tokens - 1).bit_length())
        if self._is_mapped or power == SLOT_ROWS_MIN:
            return power
        step = power // (2 * DEVICE_STEPS)
        return -(-capacity_tokens // step) * step

    def _slab_of(self, slot_rows: int) -> Slab:
        for slab in self._slabs:
            if slab.slot_rows == slot_rows and not slab.is_full:
                return slab
        if self._is_mapped:
            slots = max(1, MAPPED_SLAB_SHARE * self._kv_tokens // slot_rows)
        else:
            held = sum(slab.slots * slab.slot_rows for slab in self._slabs)
            wanted = min(self._kv_tokens // DEVICE_SLAB_SHARE, self._kv_tokens - held)
            slots = max(1, wanted // slot_rows)
        slab = self._make_slab(slots, slot_rows)
        self._slabs.append(slab)
        return slab

    def _make_slab(self, slots: int, slot_rows: int) -> Slab:
        """With fewer slots where so many cannot be had: a process may have an address limit."""
        while True:
            shape = (slots, self._layers, self._kv_heads, slot_rows)
            try:
                return Slab(
                    self._rows((*shape, self._key_dim)), self._rows((*shape, self._value_dim))
                )
            except (OSError, MemoryError, RuntimeError) as error:
                if not isinstance(error, OSError) and not is_out_of_memory(error):
                    raise
                if slots == 1:
                    raise OutOfKV(f"The machine has no memory for {slot_rows} tokens.") from error
                slots //= 2

    def _rows(self, shape: tuple[int, int, int, int, int]) -> SlotRows:
        if self._is_mapped:
            return MappedRows(shape, self._dtype)
        return DeviceRows(shape, self._dtype, self._device)
