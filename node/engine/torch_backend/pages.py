"""The memory under KV slots: pages that come as rows are written and go as rows are forgotten.

On Linux the rows of many slots are one private mapping that nothing stands behind until it is
written: slots are contiguous in addresses, not in memory (the idea of vAttention, arXiv
2405.04437). So a slot can have room for a sequence's whole capacity, attention reads plain strided
tensors, and nothing is ever moved to grow. Where the system cannot take single pages back and zero
them (macOS) or the rows lie on a device, slots are plain tensors, paid for in full when made.
"""

import mmap
import sys
from abc import ABC, abstractmethod

import torch

__all__ = ["DeviceRows", "MappedRows", "SlotRows", "can_map", "is_out_of_memory"]

MAP_NORESERVE = 0x4000
"""Linux, asm-generic/mman.h; Python's mmap module names it from 3.13 on. Without it the system
would count a mapping against its memory by its addresses."""

Shape = tuple[int, int, int, int, int]
"""(slots, layers, kv_heads, slot_rows, dim): a slot, and in it a layer, is one piece."""


def can_map(device: torch.device) -> bool:
    """Whether rows on this device can lie in pages that are taken and given back one by one."""
    return device.type == "cpu" and sys.platform == "linux"


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch or the system had no memory; on CPU torch says so by a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


class SlotRows(ABC):
    """Keys or values of all slots of a slab: zeros until written, and zeros when forgotten.

    Zeros, because rows that a mask hides still enter sums, and 0 x NaN is NaN.
    """

    tensor: torch.Tensor
    """Of Shape."""

    @abstractmethod
    def forget(self, slot: int, *, first_row: int = 0) -> None:
        """Make the slot's rows from `first_row` on zero in all layers."""

    @abstractmethod
    def forget_layer(self, slot: int, layer: int) -> None:
        """Make all the slot's rows of one layer zero."""


class DeviceRows(SlotRows):
    """A plain tensor: its memory is taken at once and given back with the slab."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        self.tensor = torch.zeros(shape, dtype=dtype, device=device)

    def forget(self, slot: int, *, first_row: int = 0) -> None:
        self.tensor[slot, :, :, first_row:].zero_()

    def forget_layer(self, slot: int, layer: int) -> None:
        self.tensor[slot, layer].zero_()


class MappedRows(SlotRows):
    """A private anonymous mapping in the CPU's memory. Raises OSError where none can be had."""

    def __init__(self, shape: Shape, dtype: torch.dtype) -> None:
        count = 1
        for size in shape:
            count *= size
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        self._map = mmap.mmap(-1, count * dtype.itemsize, flags=flags)
        # A large page would take 2 MiB for the first row of each few KV heads. Reading was
        # measured equally fast without.
        self._map.madvise(mmap.MADV_NOHUGEPAGE)
        self._numbers = torch.frombuffer(self._map, dtype=dtype, count=count)
        self.tensor = self._numbers.view(shape)

    def forget(self, slot: int, *, first_row: int = 0) -> None:
        _, layers, kv_heads, slot_rows, dim = self.tensor.shape
        stripe = slot_rows * dim
        start = slot * layers * kv_heads * stripe
        end = start + layers * kv_heads * stripe
        if first_row == 0:
            self._zero(start, end)
            return
        for begin in range(start, end, stripe):
            self._zero(begin + first_row * dim, begin + stripe)

    def forget_layer(self, slot: int, layer: int) -> None:
        _, layers, kv_heads, slot_rows, dim = self.tensor.shape
        size = kv_heads * slot_rows * dim
        start = (slot * layers + layer) * size
        self._zero(start, start + size)

    def _zero(self, start: int, end: int) -> None:
        """Numbers [start, end): whole pages go back to the system and are read as zeros."""
        size = self._numbers.itemsize
        first = -(-start * size // mmap.PAGESIZE) * mmap.PAGESIZE
        last = end * size // mmap.PAGESIZE * mmap.PAGESIZE
        if first >= last:
            self._numbers[start:end].zero_()
            return
        self._numbers[start : first // size].zero_()
        self._numbers[last // size : end].zero_()
        self._map.madvise(mmap.MADV_DONTNEED, first, last - first)
