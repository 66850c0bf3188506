"""What is remembered of the ways to a peer: the next connection need not begin from nothing.

A new connection to a peer at 20 Mbit/s and 100 ms takes a second to find its rate; one that begins
with half the last known rate sends its first megabyte in about half of that.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from protocol.identity import PeerId

__all__ = ["LinkEstimate", "PeerMemory"]

PEERS_MAX: Final = 1024
"""As many as a host may be connected to; 100 bytes each."""

FORGET_S: Final = 3600.0
"""After an hour a home line may carry somebody's video call, or be another line."""


@dataclass(frozen=True, slots=True)
class LinkEstimate:
    bandwidth_bytes_s: float
    min_rtt_s: float


class PeerMemory:
    """Owned by one host. `now` is in monotonic seconds."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[PeerId, bool], tuple[float, LinkEstimate]] = OrderedDict()

    def remember(
        self, peer_id: PeerId, estimate: LinkEstimate, now: float, *, relayed: bool = False
    ) -> None:
        """What a relay carries says nothing about the direct way, so both are kept."""
        self._known[peer_id, relayed] = (now, estimate)
        self._known.move_to_end((peer_id, relayed))
        if len(self._known) > PEERS_MAX:
            self._known.popitem(last=False)

    def recall(self, peer_id: PeerId, now: float, *, relayed: bool = False) -> LinkEstimate | None:
        """None if nothing is known, or only what is too old."""
        at, estimate = self._known.get((peer_id, relayed), (now - 2 * FORGET_S, None))
        return estimate if now - at <= FORGET_S else None
