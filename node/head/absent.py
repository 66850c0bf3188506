"""Peers that have just been found gone: for a while they are still announced, and better not tried.

A word for the search only: where nobody else serves, they are tried all the same.
"""

from protocol.identity import PeerId

__all__ = ["AbsentPeers"]

ABSENT_S = 6.0
"""Longer than a cluster or the marketplace takes to notice a death, shorter than a reboot."""
PEERS_MAX = 1024
"""Remembered at once; the oldest are forgotten first."""


class AbsentPeers:
    """Shared by the answers of one head. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._until_s: dict[PeerId, float] = {}

    def note(self, peer: PeerId, now_s: float) -> None:
        """It answered nothing, or its stream ended."""
        self._until_s.pop(peer, None)
        self._until_s[peer] = now_s + ABSENT_S
        while len(self._until_s) > PEERS_MAX:
            del self._until_s[next(iter(self._until_s))]

    def now(self, now_s: float) -> tuple[PeerId, ...]:
        """Those that are thought to be gone."""
        self._until_s = {peer: until for peer, until in self._until_s.items() if until > now_s}
        return tuple(self._until_s)
