"""The window beside a flow that fills the queue: CUBIC (RFC 9438), on what we know of the path.

Whoever keeps his queue short beside a loss-driven flow starves. Here the window grows until the
buffer overflows, as that flow's does, so the two share. A loss counts only while the queue is long:
a packet lost beside a short queue was lost by the line.

Until the first such loss the window is what half the line would have in flight at this round trip,
so a fair share is taken within some round trips and not after CUBIC's tens of seconds.
"""

from math import inf
from typing import Final

__all__ = ["CubicWindow"]

_C: Final = 0.4
"""RFC 9438 section 5.1: datagrams per second cubed."""

_BETA: Final = 0.7
"""RFC 9438 section 4.6: what a loss leaves of the window."""

_ALPHA: Final = 3 * (1 - _BETA) / (1 + _BETA)
"""RFC 9438 section 4.3: datagrams per round trip where cubic growth would be slower than Reno's."""

_FAIR_SHARE: Final = 0.5


class CubicWindow:
    """In bytes. Made when the competition begins, thrown away when it ends."""

    __slots__ = (
        "_capacity_bytes_s",
        "_cut_at",
        "_datagram_bytes",
        "_epoch_at",
        "_queue_max_s",
        "_reno_bytes",
        "_rise_s",
        "_top_bytes",
        "window_bytes",
    )

    def __init__(self, window_bytes: float, capacity_bytes_s: float, datagram_bytes: int) -> None:
        """`capacity_bytes_s`: what the line carried for us when nobody else was there."""
        self.window_bytes = window_bytes
        self._capacity_bytes_s = capacity_bytes_s
        self._datagram_bytes = datagram_bytes
        self._epoch_at: float | None = None
        self._cut_at = 0.0
        self._top_bytes = self._reno_bytes = 0.0
        self._rise_s = 0.0
        self._queue_max_s = 0.0

    def on_acked(self, now: float, acked_bytes: int, rtt_s: float, queue_s: float) -> None:
        """Not to be called for what was sent while there was little to send."""
        self._queue_max_s = max(self._queue_max_s, queue_s)
        if self._cut_at == 0.0:
            fair = _FAIR_SHARE * self._capacity_bytes_s * rtt_s or inf
            if self.window_bytes < fair:
                self.window_bytes = min(self.window_bytes + acked_bytes, fair)
                return
        if self._epoch_at is None:
            self._begin_epoch(now, self.window_bytes)
        assert self._epoch_at is not None
        size = self._datagram_bytes
        t = now - self._epoch_at + rtt_s - self._rise_s
        target = self._top_bytes + _C * t * t * t * size
        self._reno_bytes += _ALPHA * size * acked_bytes / self.window_bytes
        target = min(max(target, self._reno_bytes), 1.5 * self.window_bytes)
        if target > self.window_bytes:
            self.window_bytes += (target - self.window_bytes) * acked_bytes / self.window_bytes

    def on_lost(self, now: float, newest_sent_at: float, queue_s: float) -> None:
        """At most one cut per round trip: what was sent before the last one was lost with it."""
        if newest_sent_at <= self._cut_at or 2 * queue_s < self._queue_max_s:
            return
        self._cut_at = now
        # What the buffer holds may have changed since the longest queue was seen.
        self._queue_max_s = queue_s
        top = self.window_bytes
        if top < self._top_bytes:
            top *= (1 + _BETA) / 2  # RFC 9438 section 4.7: leave room for a newcomer
        self.window_bytes *= _BETA
        self._begin_epoch(now, top)

    def _begin_epoch(self, now: float, top_bytes: float) -> None:
        self._epoch_at = now
        self._top_bytes = top_bytes
        self._reno_bytes = self.window_bytes
        missing = max(0.0, top_bytes - self.window_bytes) / self._datagram_bytes
        self._rise_s = (missing / _C) ** (1 / 3)
