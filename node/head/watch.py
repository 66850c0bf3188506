"""Who of a route has died? A pure machine over times: no clock, no socket.

A step that is late only raises the question. The answer comes from the hops: each is probed on the
head's own stream, answers whatever its engine does, and says how many rows have come in and gone
out. So silence (the hop is gone), a link that delivers nothing (its sender has more out than its
receiver has in) and mere work (more in than out) are told apart, and only the first two count soon.
Deadlines follow what was measured: see wait names below. The accrual idea is that of Hayashibara's
detector (2004), with the largest of recent times in place of a fitted distribution.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Lost", "Watch"]

LATE_FACTOR = 4.0
LATE_MIN_S = 0.2
LATE_MAX_S = 2.0
"""A step is late after LATE_FACTOR times the longest recent one, within these bounds."""
LATE_FIRST_S = 0.6
"""Before anything was measured."""
STEPS_REMEMBERED = 64
PROBE_MIN_S = 0.15
PROBE_RTT_FACTOR = 3.0
"""A probe's answer may take PROBE_MIN_S and so many round trips."""
PROBES_MISSED_MAX = 2
"""Unanswered in a row, and the hop is gone."""
PROBES_KEPT = 8
"""Rounds whose answers still measure a round trip."""
RTT_FIRST_S = 0.25
"""A home link's round trip until one is measured: an ocean away, or a slow relay."""
LINK_SILENT_S = 1.0
"""How long a link may deliver nothing of what its sender has sent, beyond its bytes' time."""
LINK_RATE_MIN = 125_000.0
"""Bytes a second a link is given at least: 1 Mbit/s; slower uplinks carry no activations."""
WORK_FACTOR = 8.0
WORK_MIN_S = 20.0
"""A hop may work on a step WORK_FACTOR times the longest seen, and this long at least."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A hop that must be replaced, and why."""

    index: int
    reason: str


@dataclass(slots=True)
class _HopView:
    rtt_s: float | None = None
    rows_in: int = 0
    rows_out: int = 0
    progress_s: float = 0.0
    """When its rows last moved, or it was first known to lag."""
    asked_s: float | None = None
    """When the first probe left that nothing has followed; None while it is known to live."""
    probed: dict[int, float] = field(default_factory=dict)
    """Probes under way: nonce → when sent."""


class Watch:
    """Watches the hops of one route while the head waits for them. Times are monotonic seconds."""

    def __init__(self, hop_count: int, row_bytes: int, now_s: float) -> None:
        self._row_bytes = row_bytes
        self._views = [_HopView(progress_s=now_s) for _ in range(hop_count)]
        self._waiting_s: float | None = None
        self._rows_arrived = 0
        """Position behind the last row whose result is here."""
        self._times_s: deque[float] = deque(maxlen=STEPS_REMEMBERED)
        self._probe_s: float | None = None
        """When the last round of probes left; None while nothing is late."""
        self._nonce = 0

    def waiting(self, now_s: float) -> None:
        """Something is under way from now on, and nothing was before."""
        self._waiting_s = now_s
        self._probe_s = None
        for view in self._views:
            view.progress_s = now_s

    def arrived(
        self, now_s: float, *, still_waiting: bool, rows: int = 0, is_measured: bool = True
    ) -> None:
        """What was waited for has come: the whole route's OPENED, or a result.

        `rows`: the position behind it. `is_measured`: whether it says how long steps take; a chunk
        of a prompt says nothing of the steps that follow.
        """
        self._rows_arrived = rows
        if self._waiting_s is not None and is_measured:
            self._times_s.append(now_s - self._waiting_s)
        self._waiting_s = now_s if still_waiting else None
        self._probe_s = None
        for view in self._views:
            view.asked_s = None
            view.progress_s = now_s

    def replaced(self, index: int, now_s: float) -> None:
        """Another hop stands there now."""
        self._views[index] = _HopView(progress_s=now_s)

    def heard(self, index: int) -> None:
        """Any frame of a hop is a sign of life."""
        self._views[index].asked_s = None

    def progress(self, index: int, nonce: int, rows_in: int, rows_out: int, now_s: float) -> None:
        """A probe was answered."""
        view = self._views[index]
        self.heard(index)
        sent_s = view.probed.pop(nonce, None)
        if sent_s is not None:
            rtt_s = now_s - sent_s
            view.rtt_s = rtt_s if view.rtt_s is None else 0.75 * view.rtt_s + 0.25 * rtt_s
        if (rows_in, rows_out) != (view.rows_in, view.rows_out):
            view.rows_in, view.rows_out, view.progress_s = rows_in, rows_out, now_s

    def probe(self, whom: Iterable[int], now_s: float) -> int:
        """A round of probes leaves now for these hops: the nonce of all."""
        self._nonce += 1
        for view in (self._views[index] for index in whom):
            view.probed = {n: t for n, t in view.probed.items() if self._nonce - n < PROBES_KEPT}
            view.probed[self._nonce] = now_s
            if view.asked_s is None:
                view.asked_s = now_s
        if self._waiting_s is not None:
            self._probe_s = now_s
        return self._nonce

    def due_s(self, now_s: float) -> float | None:
        """When to look again; None while nothing is under way."""
        if self._waiting_s is None:
            return None
        if self._probe_s is None:
            return self._waiting_s + self._late_s()
        return self._probe_s + min(_allowance_s(view) for view in self._views)

    def should_probe(self, now_s: float) -> bool:
        """Whether a round of probes is due; each costs a small frame a hop."""
        due_s = self.due_s(now_s)
        return due_s is not None and now_s >= due_s

    def lost(self, now_s: float) -> list[Lost]:
        """The verdict, to be asked for whenever a round of probes is due, before it leaves.

        All that are silent; of others one at a time, for a dead link makes those behind it wait.
        """
        if self._waiting_s is None or self._probe_s is None:
            return []
        silent = [
            Lost(index, "it answers no probe")
            for index, view in enumerate(self._views)
            if view.asked_s is not None
            and now_s - view.asked_s >= PROBES_MISSED_MAX * _allowance_s(view)
        ]
        if silent:
            return silent
        found = self._silent_link(now_s) or self._swallowed(now_s) or self._stuck_engine(now_s)
        return [found] if found else []

    def _silent_link(self, now_s: float) -> Lost | None:
        for index, (sender, receiver) in enumerate(
            zip(self._views, self._views[1:], strict=False), start=1
        ):
            rows = sender.rows_out - receiver.rows_in
            if rows <= 0:
                continue
            patience_s = (
                LINK_SILENT_S
                + rows * self._row_bytes / LINK_RATE_MIN
                + PROBE_RTT_FACTOR * _rtt_s(receiver)
            )
            if now_s - max(sender.progress_s, receiver.progress_s) > patience_s:
                return Lost(index, "nothing that the hop before it sends arrives there")
        return None

    def _swallowed(self, now_s: float) -> Lost | None:
        """The last hop's results come on the stream on which it answers: they cannot be late."""
        last = self._views[-1]
        patience_s = LINK_SILENT_S + PROBE_RTT_FACTOR * _rtt_s(last)
        if last.rows_out > self._rows_arrived and now_s - last.progress_s > patience_s:
            return Lost(len(self._views) - 1, "what it says it has sent does not come")
        return None

    def _stuck_engine(self, now_s: float) -> Lost | None:
        longest_s = max(self._times_s, default=None)
        if longest_s is None:
            return None
        for index, view in enumerate(self._views):
            is_working = view.rows_in > view.rows_out
            if is_working and now_s - view.progress_s > max(WORK_MIN_S, WORK_FACTOR * longest_s):
                return Lost(index, "it has been at one step for far too long")
        return None

    def _late_s(self) -> float:
        longest_s = max(self._times_s, default=None)
        if longest_s is None:
            return LATE_FIRST_S
        return min(max(LATE_FACTOR * longest_s, LATE_MIN_S), LATE_MAX_S)


def _allowance_s(view: _HopView) -> float:
    return PROBE_MIN_S + PROBE_RTT_FACTOR * _rtt_s(view)


def _rtt_s(view: _HopView) -> float:
    return RTT_FIRST_S if view.rtt_s is None else view.rtt_s
