"""Silence of a peer: what the path in use owes us, since when it is doubted, and when he is dead.

Owned by one path manager; times are its awake seconds.
"""

import math
from typing import Final

__all__ = ["MOVE_AFTER_S", "SILENCE_S", "SilenceWatch"]

SILENCE_S: Final = 1.0
"""Something was sent and nothing heard: above the round trip of every home line with its queue."""

MOVE_AFTER_S: Final = 2.0
"""Then another path that answers takes over; with the time to notice, well within 5 s."""

ELSEWHERE_S: Final = 0.5
"""Where the peer has left the path already, it has this long to answer a probe."""

DEAD_AFTER_S: Final = 5.0
DEAD_IN_TUNNEL_AFTER_S: Final = 9.0
"""Where a tunnel was all there is: TCP itself stalls for seconds, and after a router's reboot a new
one takes a dial to the relay, a circuit, and signalling."""

DEAD_PROBING_S: Final = 3.0
DEAD_PROBES_MIN: Final = 5
"""Nothing heard on any path for the first, while probes went unanswered for the second."""

SIGNAL_TRUST_S: Final = 5.0
SIGNAL_TRUST_MAX_S: Final = 20.0
"""A sign of life by signalling defers the verdict, until QUIC's idle timeout would give it."""


class SilenceWatch:
    """Mutable; see the fields."""

    __slots__ = (
        "_signal_alive_at",
        "demand_at",
        "doubted_at",
        "heard_at",
        "needs_answer",
        "unanswered_count",
    )

    def __init__(self) -> None:
        self.demand_at: float | None = None
        """Since when the path in use owes us a packet."""
        self.doubted_at: float | None = None
        """Since when that is too long."""
        self.needs_answer = False
        """Packets that were under way when our network changed clear no doubt; answers do."""
        self.heard_at = -math.inf
        """Anything, by any path."""
        self.unanswered_count = 0
        """Probes since then."""
        self._signal_alive_at = -math.inf

    def on_demand(self, at: float) -> None:
        """Something was sent that should bring an answer."""
        if self.demand_at is None:
            self.demand_at = at

    def on_heard(self, at: float) -> None:
        self.heard_at, self.unanswered_count = at, 0

    def on_signal_alive(self, at: float) -> None:
        self._signal_alive_at = at

    def on_peer_elsewhere(self, at: float) -> None:
        """He sends by another path, no better, and the one in use brings nothing: it is dead for
        him. What he found out need not be found out here again."""
        since = at - MOVE_AFTER_S + ELSEWHERE_S
        self.demand_at = since if self.demand_at is None else min(self.demand_at, since)

    def on_network_changed(self, at: float) -> None:
        self.demand_at, self.needs_answer = at - SILENCE_S, True

    def trust(self) -> None:
        """The path in use is well, or another was taken."""
        self.demand_at = self.doubted_at = None
        self.needs_answer = False

    def owed_s(self, at: float) -> float:
        return 0.0 if self.demand_at is None else at - self.demand_at

    def death(self, at: float, has_paths: bool, *, in_tunnel: bool) -> str:
        """Why the peer counts as dead, or an empty string. `in_tunnel`: of late by a tunnel."""
        silent_s = at - self.heard_at
        is_probed = self.unanswered_count >= DEAD_PROBES_MIN or not has_paths
        is_vouched_for = (
            at - self._signal_alive_at < SIGNAL_TRUST_S and silent_s < SIGNAL_TRUST_MAX_S
        )
        if (
            silent_s < (DEAD_IN_TUNNEL_AFTER_S if in_tunnel else DEAD_AFTER_S)
            or self.owed_s(at) < DEAD_PROBING_S
            or not is_probed
            or is_vouched_for
        ):
            return ""
        return f"nothing was heard on any path for {silent_s:.1f} s"

    def marks(self, at: float) -> list[float]:
        """When next to judge."""
        if self.demand_at is None:
            return []
        marks = [self.demand_at + mark for mark in (SILENCE_S, MOVE_AFTER_S, DEAD_PROBING_S)]
        marks += [self.heard_at + DEAD_AFTER_S, self.heard_at + DEAD_IN_TUNNEL_AFTER_S]
        return [mark for mark in marks if mark > at]
