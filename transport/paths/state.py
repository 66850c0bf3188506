"""One path of a link: what is known of it, when to probe it next, and how good its kind is.

Pure data and policy; the times are awake seconds of the path manager that owns it.
"""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final

from transport.base import PathKind
from transport.paths.path_address import PathAddress, TunnelPath, is_direct, path_text

__all__ = ["PathReport", "PathState", "PathStatus", "Rank", "rank_of"]

KEEP_WARM_S: Final = 15.0
"""Between probes of a path that answers: half of the 30 s after which poor NATs forget (RFC 4787
section 4.3 asks for 120)."""

URGENT_PROBE_S: Final = 0.4
"""Between probes when the current path is doubtful: five before the verdict."""

NEW_PROBE_FIRST_S: Final = 0.05
NEW_PROBE_S: Final = 1.0
NEW_PROBES_MAX: Final = 20
"""A path that has not answered yet is probed fast at first, as the other side of a circuit is often
bound a moment later; then once a second, and after these a direct one is dropped."""

LOST_AFTER_COUNT: Final = 4
LOST_AFTER_S: Final = 2.0
"""A path that left this many probes unanswered over this long, and brought nothing, is silent."""

ONE_WAY_S: Final = 5.0
"""A path that brings the peer's packets but no answer for so long carries one way only. Shorter,
and a queue of seconds in a home uplink would be taken for that."""

SILENT_PROBES_FAST: Final = 12
SILENT_PROBE_S: Final = 2.0
SILENT_DROP_S: Final = 120.0
"""A direct path silent for so long is dropped: its NAT has forgotten it. Relays are kept."""

_RTT_WEIGHT: Final = 1 / 8
"""RFC 6298: of a new sample in the smoothed round trip."""


class Rank(Enum):
    """How good a kind of path is; smaller is better."""

    LAN = 0
    DIRECT = 1
    CIRCUIT = 2
    TUNNEL = 3


class PathStatus(Enum):
    NEW = "new"
    """Has not answered yet."""
    LIVE = "live"
    SILENT = "silent"
    """Has answered once, and no longer does."""


@dataclass(frozen=True, slots=True)
class PathReport:
    """What became of one path, for `doctor` and metrics. Times are monotonic seconds."""

    path: str
    kind: PathKind
    status: PathStatus
    is_current: bool
    since: float
    ended: float | None
    rtt_s: float | None
    reason: str
    """Why it ended, or what it is doing."""


def rank_of(path: PathAddress, kind: PathKind) -> Rank:
    if kind is PathKind.LAN:
        return Rank.LAN
    if is_direct(path):
        return Rank.DIRECT
    return Rank.TUNNEL if isinstance(path, TunnelPath) else Rank.CIRCUIT


class PathState:
    """Mutable; owned by one path manager."""

    __slots__ = (
        "answer_count",
        "answered_at",
        "created_at",
        "failed_at",
        "failure_count",
        "heard_at",
        "is_reflexive",
        "kind",
        "next_probe_at",
        "path",
        "pending_since",
        "rank",
        "rtt_s",
        "silent_since",
        "status",
        "unanswered_count",
    )

    def __init__(self, path: PathAddress, kind: PathKind, now: float, *, reflexive: bool) -> None:
        self.path = path
        self.kind = kind
        self.rank = rank_of(path, kind)
        self.is_reflexive = reflexive
        """Learned from where the peer's packets came."""
        self.status = PathStatus.NEW
        self.created_at = now
        self.next_probe_at = now
        self.heard_at = -math.inf
        """Anything authentic came by it."""
        self.answered_at = -math.inf
        """A probe was answered by it."""
        self.answer_count = 0
        """In a row."""
        self.pending_since: float | None = None
        """When the first of the unanswered probes left."""
        self.unanswered_count = 0
        self.silent_since = math.inf
        self.rtt_s: float | None = None
        self.failure_count = 0
        """How often it fell silent as the current path."""
        self.failed_at = -math.inf

    @property
    def is_relay(self) -> bool:
        return not is_direct(self.path)

    def on_heard(self, now: float) -> None:
        self.heard_at = now

    def on_probe_heard(self, now: float) -> None:
        """The peer probes here: a relay has both of us bound now, so prove it without waiting."""
        if self.status is PathStatus.NEW and self.is_relay:
            self.next_probe_at = now

    def on_answered(self, now: float, rtt_s: float, *, is_urgent: bool) -> None:
        is_first = self.status is not PathStatus.LIVE
        self.status = PathStatus.LIVE
        self.heard_at = self.answered_at = now
        self.answer_count += 1
        self.pending_since, self.unanswered_count = None, 0
        self.silent_since = math.inf
        if self.rtt_s is None:
            self.rtt_s = rtt_s
        else:
            self.rtt_s += _RTT_WEIGHT * (rtt_s - self.rtt_s)
        # A second answer confirms the first, at once; after that it is only kept warm.
        gap_s = 0.0 if is_first else URGENT_PROBE_S if is_urgent else KEEP_WARM_S
        self.next_probe_at = now + gap_s

    def on_probed(self, now: float, *, is_urgent: bool) -> None:
        """A probe leaves; decide when the next one would."""
        if self.pending_since is None:
            self.pending_since = now
        self.unanswered_count += 1
        self.next_probe_at = now + self._gap_s(is_urgent)

    def settle(self, now: float) -> None:
        """Notice silence."""
        if self.status is not PathStatus.LIVE or self.pending_since is None:
            return
        pending_s = now - self.pending_since
        quiet_s = min(pending_s, now - self.heard_at)
        if self.unanswered_count >= LOST_AFTER_COUNT and (
            quiet_s >= LOST_AFTER_S or pending_s >= ONE_WAY_S
        ):
            self.become_silent(now)

    def become_silent(self, now: float) -> None:
        if self.status is PathStatus.LIVE:
            self.status = PathStatus.SILENT
            self.answer_count = 0
            self.silent_since = now
            self.next_probe_at = min(self.next_probe_at, now + URGENT_PROBE_S)

    def reason_to_drop(self, now: float) -> str:
        """Empty while it may stay. Relays stay until their owner removes them."""
        if self.is_relay:
            return ""
        if self.status is PathStatus.NEW and self.unanswered_count > NEW_PROBES_MAX:
            return "no answer"
        if self.status is PathStatus.SILENT and now - self.silent_since >= SILENT_DROP_S:
            return f"silent for {SILENT_DROP_S:.0f} s"
        return ""

    def report(
        self, slept_s: float, *, is_current: bool, ended: float | None, reason: str
    ) -> PathReport:
        """`slept_s` and `ended` turn awake seconds into real ones."""
        return PathReport(
            path_text(self.path),
            self.kind,
            self.status,
            is_current,
            self.created_at + slept_s,
            ended,
            self.rtt_s,
            reason,
        )

    def _gap_s(self, is_urgent: bool) -> float:
        count = self.unanswered_count
        if self.status is PathStatus.NEW:
            if count > NEW_PROBES_MAX:
                return KEEP_WARM_S
            return min(NEW_PROBE_FIRST_S * 2.0 ** (count - 1), NEW_PROBE_S)
        if is_urgent or self.status is PathStatus.LIVE:
            return URGENT_PROBE_S  # a live path answers, and that puts the next probe off
        if count < SILENT_PROBES_FAST:
            return URGENT_PROBE_S
        return SILENT_PROBE_S if count < 4 * SILENT_PROBES_FAST else KEEP_WARM_S
