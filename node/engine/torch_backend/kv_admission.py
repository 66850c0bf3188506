"""What sequences, open and closed, hold of an engine's KV: a budget over the store's slots.

Opening is the only place where KV can be short; see docs/adr/0013.
"""

from collections.abc import Sequence

from node.engine.errors import OutOfKV
from node.engine.prefix_cache import KVBudget
from node.engine.torch_backend.kv import KVSequence, KVStore
from protocol.route import Span

__all__ = ["KVAdmission"]

GIVE_BACK_ROWS = 256
"""A truncate of fewer rows leaves them in memory: they are reserved, and drafts soon write them
again. Giving back costs a call a layer and KV head."""


class KVAdmission:
    """Slots and their reservations, together. One thread's."""

    def __init__(self, store: KVStore, kv_tokens: int) -> None:
        self._store = store
        self.budget = KVBudget(kv_tokens, self._release, rounding_tokens=store.rounding_tokens)
        """For its statistics; it is changed here alone."""

    def open(self, capacity_tokens: int, span: Span, prefix: Sequence[bytes]) -> KVSequence:
        """A slot for the capacity, with the rows of the prefix that are here. Raises OutOfKV."""
        found = self.budget.open(capacity_tokens, span, prefix)
        try:
            if found is None:
                return self._store.open(capacity_tokens)
            begin = self._store.take_over if found.is_taken else self._store.copy
            return begin(found.rows, capacity_tokens, found.tokens)
        except OutOfKV:
            self.budget.cancel(capacity_tokens)
            raise

    def truncate(self, kv: KVSequence, length: int) -> None:
        """Forget rows; their memory is given back where it is worth the calls."""
        if kv.length - length >= GIVE_BACK_ROWS:
            self._store.forget(kv, length)
        kv.length = length

    def undo(self, kv: KVSequence, length: int) -> None:
        """Forget rows that may be broken: NaN there would reach later sums through a mask."""
        self._store.forget(kv, length)

    def close(
        self, kv: KVSequence, capacity_tokens: int, span: Span, keep: Sequence[bytes]
    ) -> None:
        """Give the reservation back; whole blocks that `keep` names may stay."""
        self.budget.close(capacity_tokens, span, kv, kv.length, keep)

    def _release(self, kv: KVSequence, tokens: int) -> None:
        """What the budget says of a closed sequence's rows: forget those from `tokens` on."""
        if tokens:
            self._store.forget(kv, tokens)
        else:
            self._store.close(kv)
