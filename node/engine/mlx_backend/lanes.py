"""One pass over several sequences: where each lane's rows lie, and who sees whom.

mlx_lm's attention asks its cache for the rope offset (a number, or one a lane), hands it the new
keys and values, and attends to what comes back under the mask it was given. So all that batching
needs is here and in the masks; the classes stay as they are.
"""

from collections.abc import Sequence

import mlx.core as mx

__all__ = ["LanePass", "LayerKV"]


class LanePass:
    """The rows [length, length + count) of each lane, padded to `rows` a lane.

    Padding rows are computed and thrown away: they stand after a lane's own rows, where none of
    those sees them, and what they write is zero and lies beyond the lane's length.
    """

    def __init__(self, lengths: Sequence[int], counts: Sequence[int]) -> None:
        self.rows = max(counts)
        self.end = max(lengths) + self.rows
        """How many rows of keys and values the pass looks at."""
        self._is_even = len(set(lengths)) == 1
        starts = mx.array(list(lengths))
        self.offset: int | mx.array = lengths[0] if self._is_even else starts
        self._positions = starts[:, None] + mx.arange(self.rows)
        self._padding: mx.array | None = None
        if min(counts) < self.rows:
            beyond = mx.arange(self.rows) >= mx.array(list(counts))[:, None]
            self._padding = beyond[:, None, :, None]

    def write(self, buffer: mx.array, rows: mx.array) -> mx.array:
        """`buffer` (lanes, heads, held, dim) with `rows` (lanes, heads, rows, dim) in place.

        MLX writes without copying when nobody else holds the buffer.
        """
        if self._padding is not None:  # a NaN there would outlive the pass
            rows = mx.where(self._padding, mx.zeros((), rows.dtype), rows)
        if isinstance(self.offset, int):
            buffer[:, :, self.offset : self.end] = rows
            return buffer
        places = mx.broadcast_to(self._positions[:, None, :, None], rows.shape)
        return mx.put_along_axis(buffer, places, rows, axis=2)

    def mask(
        self, window: int | None, *, by_array: bool, folds_groups: bool
    ) -> mx.array | str | None:
        """Who sees whom, in the form that mlx_lm's layers take; (lanes, 1, rows, end) if an array.

        `folds_groups` puts in one more axis of 1 after the first.
        """
        sees_all = window is None or self.end <= window
        if self._is_even and sees_all and (self.rows == 1 or not by_array):
            return None if self.rows == 1 else "causal"
        position = self._positions[:, None, :, None]
        other = mx.arange(self.end)
        visible = other <= position
        if window is not None:
            visible = visible & (other > position - window)
        return visible[:, None] if folds_groups else visible


class LayerKV:
    """Keys and values of all lanes in one layer: what mlx_lm's attention calls its cache."""

    def __init__(self, keys: mx.array, values: mx.array) -> None:
        self.keys = keys
        """(lanes, kv_heads, held, key_dim)"""
        self.values = values
        """(lanes, kv_heads, held, value_dim)"""
        self.current: LanePass | None = None
        """The pass under way; set for its length."""

    @property
    def offset(self) -> int | mx.array:
        assert self.current is not None
        return self.current.offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """File the new rows, all rows back. Called by mlx_lm's attention, once a pass."""
        assert self.current is not None
        self.keys = self.current.write(self.keys, keys)
        self.values = self.current.write(self.values, values)
        end = self.current.end
        return self.keys[:, :, :end], self.values[:, :, :end]
