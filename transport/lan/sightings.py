"""Which peers are in sight: announcements by name in, found and lost peers out. No I/O.

Several names may claim one PeerId (a restarted node, or somebody's joke): the peer's addresses
are those of all of them, and it is lost with the last.
"""

from typing import Final

from protocol.identity import PeerId
from transport.address import Address
from transport.lan.discovery import OnFound, OnLost, Sighting

__all__ = ["Sightings"]

NAMES_MAX: Final = 256
"""A LAN of that many nodes is none; what is beyond is a flood."""

NAMES_PER_PEER_MAX: Final = 4
ADDRESSES_PER_PEER_MAX: Final = 16
"""As many as a dial tries."""


class Sightings:
    """Owned by one Discovery."""

    def __init__(self, on_found: OnFound, on_lost: OnLost) -> None:
        self._on_found = on_found
        self._on_lost = on_lost
        self._by_name: dict[str, Sighting] = {}
        self._told: dict[PeerId, Sighting] = {}
        self.refused_count = 0
        """Announcements beyond the limits."""

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._by_name)

    @property
    def peers(self) -> tuple[Sighting, ...]:
        return tuple(self._told.values())

    def put(self, name: str, sighting: Sighting) -> None:
        """`name` announces that now, whatever it announced before."""
        before = self._by_name.get(name)
        if before is None and not self._has_room(sighting.peer_id):
            self.refused_count += 1
            return
        self._by_name[name] = sighting
        if before is not None and before.peer_id != sighting.peer_id:
            self._tell(before.peer_id)
        self._tell(sighting.peer_id)

    def drop(self, name: str) -> None:
        """`name` is gone, or says nothing sensible any more."""
        if (before := self._by_name.pop(name, None)) is not None:
            self._tell(before.peer_id)

    def _has_room(self, peer_id: PeerId) -> bool:
        names = sum(sighting.peer_id == peer_id for sighting in self._by_name.values())
        return len(self._by_name) < NAMES_MAX and names < NAMES_PER_PEER_MAX

    def _tell(self, peer_id: PeerId) -> None:
        heard = [s for s in self._by_name.values() if s.peer_id == peer_id]
        if not heard:
            if self._told.pop(peer_id, None) is not None:
                self._on_lost(peer_id)
            return
        addresses: dict[Address, None] = {}
        for sighting in heard:
            addresses |= dict.fromkeys(sighting.addresses)
        union = Sighting(peer_id, tuple(addresses)[:ADDRESSES_PER_PEER_MAX], heard[-1].cluster)
        if self._told.get(peer_id) != union:
            self._told[peer_id] = union
            self._on_found(union)
