"""What each peer has had carried by the UDP forwarder, and what was dropped and why. Pure.

Sizes and counts only: nobody here ever sees what a datagram says. Kept in memory, for status,
metrics and the limits per peer; a restart begins anew.
"""

import heapq
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocol.identity import PeerId
from relay.resources import ForwarderLimits
from relay.token_bucket import TokenBucket

__all__ = ["DropReason", "PeerUsage", "PeerUsageStatistics", "UsageTable"]

MONTH_S: Final = 30 * 24 * 3600


class DropReason(StrEnum):
    """Why a datagram went no further."""

    UNKNOWN_CIRCUIT = "unknown_circuit"
    WRONG_SOURCE = "wrong_source"
    """Of a circuit, but from an address to which neither of its sides is bound."""
    UNBOUND = "unbound"
    """The other side has not said where it is."""
    BYTES_PER_S_MAX = "bytes_per_s_max"
    MONTH_BYTES_MAX = "month_bytes_max"
    FORGED_BIND = "forged_bind"
    """Its MAC is not the side's, or its circuit is unknown."""
    REPLAYED_BIND = "replayed_bind"
    """Its counter is not above the last one."""
    REFLECT_RATE = "reflect_rate"
    """Above the reflector's limits per host or in all."""
    MALFORMED = "malformed"
    """Too short, or a field that cannot be."""
    UNKNOWN_TYPE = "unknown_type"
    """A first byte that a relay does not serve."""


@dataclass(frozen=True, slots=True)
class PeerUsageStatistics:
    """Whole datagrams as they came, with the 9 bytes that name the circuit."""

    peer_id: PeerId
    circuits: int
    datagrams_from: int
    bytes_from: int
    datagrams_to: int
    bytes_to: int
    month_bytes: int
    """Of circuits this peer owns, since its 30 days began."""
    drops: Mapping[DropReason, int]
    """Datagrams from this peer that went no further."""


class PeerUsage:
    """One peer's counts and allowance; the forwarder's hot loop writes them directly."""

    __slots__ = (
        "_bucket",
        "_month_began_at",
        "_month_bytes_max",
        "bytes_from",
        "bytes_to",
        "circuits",
        "datagrams_from",
        "datagrams_to",
        "drops",
        "month_bytes",
    )

    def __init__(self, limits: ForwarderLimits, now: float) -> None:
        self._bucket = TokenBucket(limits.bytes_per_s_max, limits.burst_bytes, now)
        self._month_bytes_max = limits.month_bytes_max
        self._month_began_at = now
        self.month_bytes = 0
        self.circuits = 0
        """As either side; while there are any, this peer is not forgotten."""
        self.datagrams_from = self.bytes_from = self.datagrams_to = self.bytes_to = 0
        self.drops: Counter[DropReason] | None = None
        """None until there is one: most peers have none."""

    def charge(self, size_bytes: int, now: float) -> DropReason | None:
        """Take it from the allowance, or say which limit stands against it."""
        if now - self._month_began_at >= MONTH_S:
            self._month_began_at, self.month_bytes = now, 0
        if self._month_bytes_max is not None and (
            self.month_bytes + size_bytes > self._month_bytes_max
        ):
            return DropReason.MONTH_BYTES_MAX
        if not self._bucket.take(size_bytes, now):
            return DropReason.BYTES_PER_S_MAX
        self.month_bytes += size_bytes
        return None

    def note_drop(self, reason: DropReason, datagrams: int) -> None:
        if self.drops is None:
            self.drops = Counter()
        self.drops[reason] += datagrams


class UsageTable:
    """The peers that used the forwarder last, at most `limits.peers_max`."""

    def __init__(self, limits: ForwarderLimits) -> None:
        self._limits = limits
        self._peers: OrderedDict[PeerId, PeerUsage] = OrderedDict()

    def __len__(self) -> int:
        return len(self._peers)

    def of(self, peer: PeerId, now: float) -> PeerUsage:
        """That peer's usage, new if it is not known. The longest unasked goes for it.

        Peers that have circuits stay: the limits see to it that there are always others.
        """
        usage = self._peers.get(peer)
        if usage is None:
            self._make_room()
            usage = self._peers[peer] = PeerUsage(self._limits, now)
        self._peers.move_to_end(peer)
        return usage

    def statistics_of(self, peer: PeerId) -> PeerUsageStatistics | None:
        usage = self._peers.get(peer)
        return None if usage is None else _statistics(peer, usage)

    def largest(self, count: int) -> tuple[PeerUsageStatistics, ...]:
        """The `count` peers with the most bytes, both ways together; the most first."""
        found = heapq.nlargest(
            count, self._peers.items(), key=lambda item: item[1].bytes_from + item[1].bytes_to
        )
        return tuple(_statistics(peer, usage) for peer, usage in found)

    def _make_room(self) -> None:
        for _ in range(len(self._peers)):
            if len(self._peers) < self._limits.peers_max:
                return
            peer, usage = next(iter(self._peers.items()))
            if usage.circuits:
                self._peers.move_to_end(peer)
            else:
                del self._peers[peer]


def _statistics(peer: PeerId, usage: PeerUsage) -> PeerUsageStatistics:
    return PeerUsageStatistics(
        peer_id=peer,
        circuits=usage.circuits,
        datagrams_from=usage.datagrams_from,
        bytes_from=usage.bytes_from,
        datagrams_to=usage.datagrams_to,
        bytes_to=usage.bytes_to,
        month_bytes=usage.month_bytes,
        drops=dict(usage.drops or {}),
    )
