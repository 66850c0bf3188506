"""What this machine says of itself, signed anew whenever it changes and every few seconds."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from protocol.envelope import Envelope, seal
from protocol.identity import KeyPair
from protocol.machine import ADDRESSES_MAX, MachineRecord

__all__ = ["LIFETIME_S", "OwnWord"]

LIFETIME_S: Final = 15
"""Two renewals may be lost before it runs out."""


class OwnWord:
    """The newest record, and what goes into the next."""

    def __init__(
        self, key: KeyPair, record: MachineRecord, clock: Callable[[], float] = time.time
    ) -> None:
        self.record = record
        self._key = key
        self._clock = clock

    def change(self, changes: dict[str, Any]) -> bool:
        """Set fields by name; whether that made a difference."""
        fresh = replace(self.record, **changes)
        is_new = fresh != self.record
        self.record = fresh
        return is_new

    def sign(self, addresses: Sequence[str]) -> Envelope:
        """As of now. The sequence is a time in ms, so it grows over restarts too."""
        now_s = self._clock()
        self.record = replace(
            self.record,
            addresses=tuple(addresses[:ADDRESSES_MAX]),
            sequence=max(self.record.sequence + 1, int(now_s * 1000)),
            issued_at_s=int(now_s),
            expires_at_s=int(now_s) + LIFETIME_S,
        )
        return seal(self.record, self._key)
