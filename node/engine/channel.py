"""The memory an engine's parent and its worker share: one input area, one output area.

The memory has no name: a memfd on Linux, an unlinked file elsewhere, handed to the child as an
inherited descriptor. The kernel frees it when both processes are gone, however they went, so
there is nothing to unlink and nothing to leak into /dev/shm. One step is in flight at a time;
what a peer sent lies here and nowhere in the control messages.
"""

import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from protocol.limits import STEP_TOKENS_MAX

__all__ = ["BATCH_ROWS_MAX", "Area", "Channel"]

BATCH_ROWS_MAX = 2 * STEP_TOKENS_MAX
"""Rows of one batch: the longest prefill chunk beside as many decode rows. Sizes the areas."""

ALIGNMENT_BYTES = 64
"""Each array starts on its own cache line, which is also what vector loads like."""


class Area:
    """A stretch of the shared memory, written from its start by one side, read by the other."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory

    def write(self, arrays: Sequence[npt.NDArray[Any]]) -> None:
        """Copy the arrays in, one behind the other; they must fit (the caller counted rows)."""
        offset = 0
        for array in arrays:
            self._place(array.shape, array.dtype, offset)[...] = array
            offset += _aligned(array.nbytes)

    def read(
        self, shapes: Sequence[tuple[tuple[int, ...], npt.DTypeLike]]
    ) -> list[npt.NDArray[Any]]:
        """Views, in the order written. They are overwritten by the next step: copy to keep."""
        views: list[npt.NDArray[Any]] = []
        offset = 0
        for shape, dtype in shapes:
            view = self._place(shape, dtype, offset)
            views.append(view)
            offset += _aligned(view.nbytes)
        return views

    def _place(self, shape: tuple[int, ...], dtype: npt.DTypeLike, offset: int) -> npt.NDArray[Any]:
        # Raises TypeError where it would reach past the area.
        return np.ndarray(shape, dtype, buffer=self._memory, offset=offset)


class Channel:
    """The two areas behind one descriptor. Created by the parent, sized by the child.

    Only the child knows the model's hidden size, so it calls `allocate` after loading; the
    parent calls `map` when it has been told. Pages cost memory only once they are touched.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.input = Area(memoryview(b""))
        self.output = Area(memoryview(b""))

    @classmethod
    def create(cls) -> "Channel":
        if hasattr(os, "memfd_create"):
            return cls(os.memfd_create("piecework-engine", os.MFD_CLOEXEC))
        with tempfile.TemporaryFile() as file:  # unlinked already; the descriptor outlives it
            return cls(os.dup(file.fileno()))

    def allocate(self, hidden_size: int) -> None:
        """Give the memory its size, then map it."""
        os.ftruncate(self.descriptor, 2 * _area_bytes(hidden_size))
        self.map(hidden_size)

    def map(self, hidden_size: int) -> None:
        area_bytes = _area_bytes(hidden_size)
        memory = memoryview(mmap.mmap(self.descriptor, 2 * area_bytes))
        self.input, self.output = Area(memory[:area_bytes]), Area(memory[area_bytes:])

    def close(self) -> None:
        """Let go of the memory; views handed out keep it alive until they are dropped."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1
        self.input = self.output = Area(memoryview(b""))


def _area_bytes(hidden_size: int) -> int:
    # Every item has at least one row, so rounding each row up covers the gaps between items.
    # Token ids and rows of any other wire dtype are no larger than an fp32 row.
    return BATCH_ROWS_MAX * _aligned(hidden_size * 4)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
