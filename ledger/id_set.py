"""A set of ids that an auditor of a very long log can hold: eight bytes each, and room. Pure.

Of an id only a keyed hash is kept. The key is drawn anew for every run, so that nobody can choose
ids that collide; that two of ten million do by chance has odds of one to 300 000, and then an audit
run again says otherwise.
"""

import hashlib
import secrets
from array import array

__all__ = ["IdSet"]

_FIRST_SLOTS = 1 << 10
_KEY_BYTES = 16


class IdSet:
    """Open addressing over an array of 64-bit hashes; 0 is an empty slot."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(_KEY_BYTES)
        self._slots = array("Q", bytes(8 * _FIRST_SLOTS))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, item: bytes) -> bool:
        return self._slots[self._slot_of(self._hash(item))] != 0

    def add(self, item: bytes) -> None:
        """Remember an id; again is no error."""
        value = self._hash(item)
        slot = self._slot_of(value)
        if self._slots[slot]:
            return
        self._slots[slot] = value
        self._count += 1
        if 3 * self._count > 2 * len(self._slots):
            self._grow()

    def _hash(self, item: bytes) -> int:
        digest = hashlib.blake2b(item, digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "big") or 1

    def _slot_of(self, value: int) -> int:
        """Where a value is, or where it would be put."""
        slots, mask = self._slots, len(self._slots) - 1
        slot = value & mask
        while slots[slot] not in (0, value):
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        older = self._slots
        self._slots = array("Q", bytes(16 * len(older)))
        for value in older:
            if value:
                self._slots[self._slot_of(value)] = value
