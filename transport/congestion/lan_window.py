"""The window on a LAN: large at once, never paced, halved by a loss.

A LAN's queue is short and its round trip smaller than the event loop's turns, so a model of it
would measure Python. What limits there is the other end's socket buffer.
"""

from typing import Final

__all__ = ["LanWindow"]

_MINIMUM_DATAGRAMS: Final = 16
_MAXIMUM_BYTES: Final = 16 * 1024 * 1024
"""Above what a stream may have unacknowledged; only keeps the number from growing for ever."""


class LanWindow:
    """In bytes; grows by what is acknowledged until a loss, then by a datagram a round trip."""

    __slots__ = ("_cut_at", "_datagram_bytes", "_is_doubling", "window_bytes")

    def __init__(self, *, datagrams: int, datagram_bytes: int) -> None:
        self._datagram_bytes = datagram_bytes
        self.window_bytes = float(datagrams * datagram_bytes)
        self._is_doubling = True
        self._cut_at = 0.0

    def on_acked(self, acked_bytes: int) -> None:
        if self._is_doubling:
            self.window_bytes += acked_bytes
        else:
            self.window_bytes += self._datagram_bytes * acked_bytes / self.window_bytes
        self.window_bytes = min(self.window_bytes, _MAXIMUM_BYTES)

    def on_lost(self, now: float, newest_sent_at: float) -> None:
        """At most one cut per round trip."""
        if newest_sent_at > self._cut_at:
            self._cut_at = now
            self._is_doubling = False
            minimum = _MINIMUM_DATAGRAMS * self._datagram_bytes
            self.window_bytes = max(self.window_bytes / 2, minimum)
