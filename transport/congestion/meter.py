"""How fast the path delivers, from the packets themselves: the bookkeeping under the controller.

Each packet carries what was known when it was sent; its acknowledgement closes a sample: bytes
delivered meanwhile over the longer of the time taken to send them and to have them acknowledged
(draft-ietf-ccwg-bbr, "delivery rate sampling"). The longer, because ACKs may come bunched.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Any

__all__ = ["DeliveryMeter", "Sample"]


@dataclass(frozen=True, slots=True)
class Sample:
    rate_bytes_s: float
    acked_bytes: int
    is_app_limited: bool
    """The sender had nothing to send at some time: the path may carry more than this rate."""
    is_round_over: bool
    """A packet sent after the last round's end was acknowledged: one round trip has passed."""


class DeliveryMeter:
    """Owned by one controller. Packets are aioquic's: `sent_time` (s), `sent_bytes`, and any
    attribute may be hung on them; we hang `known_at_sending`."""

    def __init__(self) -> None:
        self.bytes_in_flight = 0
        self.delivered_bytes = 0
        self._acked_bytes = 0
        self._newest: Any = None
        self._round_end_bytes = 0
        self._app_limited_until_bytes = 0
        self._path_since = -inf
        self._known: tuple[int, float, float, bool] = (0, 0.0, 0.0, False)
        """(delivered bytes, when, when the newest acknowledged packet was sent, app-limited)."""

    def on_packet_sent(self, *, packet: Any) -> None:
        if not self.bytes_in_flight:
            # After a pause the clock starts again, or the pause would count as slow delivery.
            now = packet.sent_time
            self._known = (self.delivered_bytes, now, now, self._known[3])
        packet.known_at_sending = self._known
        self.bytes_in_flight += packet.sent_bytes

    def on_packet_acked(self, *, now: float, packet: Any) -> None:
        """aioquic goes through an ACK from the oldest packet to the newest."""
        size = packet.sent_bytes
        self.bytes_in_flight -= size
        self.delivered_bytes += size
        self._acked_bytes += size
        self._newest = packet

    def on_packets_expired(self, *, packets: Iterable[Any]) -> None:
        for packet in packets:
            self.bytes_in_flight -= packet.sent_bytes

    def mark_app_limited(self) -> None:
        """The window and the pacer would have let more out than there was."""
        self._app_limited_until_bytes = self.delivered_bytes + self.bytes_in_flight
        if not self._known[3]:
            self._known = (*self._known[:3], True)

    def forget_path(self, now: float) -> None:
        """Packets sent until `now` went another way and tell nothing about this one."""
        self._path_since = now
        self._round_end_bytes = self.delivered_bytes + self.bytes_in_flight

    def _close_sample(self, now: float) -> Sample | None:
        """At the end of an ACK. None if it says nothing about this path."""
        packet, acked = self._newest, self._acked_bytes
        self._acked_bytes = 0
        delivered = self.delivered_bytes
        prior, prior_at, prior_sent_at, is_limited = packet.known_at_sending
        sent_at = packet.sent_time
        self._known = (delivered, now, sent_at, delivered < self._app_limited_until_bytes)
        if sent_at <= self._path_since:
            return None
        elapsed = max(sent_at - prior_sent_at, now - prior_at)
        is_round_over = prior >= self._round_end_bytes
        if is_round_over:
            self._round_end_bytes = delivered
        rate = (delivered - prior) / elapsed if elapsed > 0 else 0.0
        return Sample(rate, acked, is_limited, is_round_over)
