"""Whom to dial, and when again. Sans-IO: `now` in monotonic seconds."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.identity import PeerId
from transport.address import AnyAddress

__all__ = ["AddressBook"]

PEERS_MAX: Final = 256
"""Machines remembered; the one heard of longest ago goes first."""
RETRY_S: Final = 2.0
"""After a dial that failed, doubled each time up to the next."""
RETRY_MAX_S: Final = 30.0
YIELD_S: Final = 0.5
"""Of two machines that find each other the one with the higher PeerId dials so much later, so that
there is one stream and not two."""


@dataclass(slots=True)
class _Entry:
    addresses: tuple[AnyAddress, ...]
    due_at: float
    failures: int = 0
    is_dialling: bool = False


class AddressBook:
    """Machines that were found or introduced. A member's entry stays, for when it is lost."""

    def __init__(self, own: PeerId) -> None:
        self._own = own
        self._entries: dict[PeerId, _Entry] = {}

    def put(self, peer: PeerId, addresses: Sequence[AnyAddress], now: float) -> None:
        """Heard of; new addresses are tried at once, the same ones when they are due."""
        if peer == self._own or not addresses:
            return
        entry = self._entries.pop(peer, None)
        if entry is None or set(entry.addresses) != set(addresses):
            is_dialling = entry is not None and entry.is_dialling
            due_at = now if self._own < peer else now + YIELD_S
            entry = _Entry(tuple(addresses), due_at, is_dialling=is_dialling)
        self._entries[peer] = entry
        if len(self._entries) > PEERS_MAX:
            del self._entries[next(iter(self._entries))]

    def remove(self, peer: PeerId) -> None:
        self._entries.pop(peer, None)

    def take_due(
        self, linked: Collection[PeerId], now: float
    ) -> list[tuple[PeerId, tuple[AnyAddress, ...]]]:
        """Machines to dial now; each must be given back with `dialled`."""
        due = [
            (peer, entry)
            for peer, entry in self._entries.items()
            if entry.due_at <= now and not entry.is_dialling and peer not in linked
        ]
        for _, entry in due:
            entry.is_dialling = True
        return [(peer, entry.addresses) for peer, entry in due]

    def dialled(self, peer: PeerId, now: float, *, ok: bool, refused: bool = False) -> None:
        """A dial, and the stream that came of it, is over."""
        entry = self._entries.get(peer)
        if entry is None:
            return
        entry.is_dialling = False
        entry.failures = 0 if ok else entry.failures + 1
        wait_s = RETRY_S * 2 ** min(entry.failures - 1, 8) if entry.failures else YIELD_S
        entry.due_at = now + (RETRY_MAX_S if refused else min(wait_s, RETRY_MAX_S))
