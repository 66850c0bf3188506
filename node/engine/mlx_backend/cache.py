"""One sequence's keys and values in one layer, as mlx_lm's attention asks for them.

mlx_lm's own caches either cannot be cut back exactly (rotating ones, once wrapped) or cut all
sequences by the same amount. This one keeps every row, windowed layers' too: truncate is a number.
"""

import mlx.core as mx

__all__ = ["LayerCache"]

BLOCK_ROWS = 256
"""The buffer grows by this many rows at a time, up to the sequence's capacity."""


class LayerCache:
    """Rows [0, offset) of keys and values, each (1, kv_heads, rows, head_dim)."""

    def __init__(self, capacity_tokens: int) -> None:
        self.offset = 0
        """How many rows count; mlx_lm reads rope positions from it. Set it lower to truncate."""
        self._capacity = capacity_tokens
        self._keys: mx.array | None = None
        self._values: mx.array | None = None

    @property
    def arrays(self) -> list[mx.array]:
        """What is to be evaluated after a step."""
        return [array for array in (self._keys, self._values) if array is not None]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append rows, all rows back. Called by mlx_lm's attention, once a layer and step."""
        end = self.offset + keys.shape[2]
        self._keys = self._grown(self._keys, keys, end)
        self._values = self._grown(self._values, values, end)
        self._keys[:, :, self.offset : end] = keys
        self._values[:, :, self.offset : end] = values
        self.offset = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    def mask(self, rows: int, window: int | None) -> mx.array | str | None:
        """Who sees whom among the `rows` about to be appended, in the form mlx_lm's layers take."""
        end = self.offset + rows
        if window is None or end <= window:
            return None if rows == 1 else "causal"
        row = mx.arange(self.offset, end)[:, None]
        other = mx.arange(end)[None]
        return (other <= row) & (other > row - window)

    def _grown(self, buffer: mx.array | None, like: mx.array, end: int) -> mx.array:
        held = 0 if buffer is None else buffer.shape[2]
        if buffer is not None and end <= held:
            return buffer
        size = min(-(-end // BLOCK_ROWS) * BLOCK_ROWS, self._capacity)
        batch, kv_heads, _, head_dim = like.shape
        more = mx.zeros((batch, kv_heads, size - held, head_dim), like.dtype)
        return more if buffer is None else mx.concatenate([buffer, more], axis=2)
