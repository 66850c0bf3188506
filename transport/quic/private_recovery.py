"""aioquic's loss recovery with three changes; the other half of `private`.

Reordering: the stock threshold of 3 packets takes 1 ms of reordering at 20 Mbit/s for loss, and the
share falls to two thirds. Time decides here, as RACK does (RFC 8985); a count is the backstop.
Back-off: the stock probe timeout doubles without end, so after an outage of seconds data would
resume seconds late. And the round trip can be forgotten, when the path has changed beneath us.
"""

from math import inf
from typing import Final

from aioquic.quic.recovery import K_TIME_THRESHOLD, QuicPacketRecovery, QuicPacketSpace

__all__ = ["Recovery"]

_PACKET_THRESHOLD: Final = 32
_REORDERING_S: Final = 0.004
"""Waited at least beyond a round trip: Wi-Fi reorders by this, and timers have steps of 1 ms."""

_BACKOFF_MAX: Final = 2
"""Probe timeouts double twice, then stay: a fourth of the probes of a dead path's first second."""


class Recovery(QuicPacketRecovery):
    """Owned by one `QuicCore`."""

    probe_timeout_count = 0
    """Probe timeouts since the start (RFC 9002 section 6.2): whole flights that went unanswered."""

    def _detect_loss(self, *, now: float, space: QuicPacketSpace) -> None:
        """RFC 9002 section 6.1, as aioquic's but for the two thresholds."""
        rtt = max(self._rtt_latest, self._rtt_smoothed) if self._rtt_initialized else 0.0
        if rtt:
            delay = max(K_TIME_THRESHOLD * rtt, rtt + _REORDERING_S)
        else:
            delay = K_TIME_THRESHOLD * self._rtt_initial
        largest = space.largest_acked_packet
        lost = []
        space.loss_time = None
        for number, packet in space.sent_packets.items():
            if number > largest:
                break
            sent_at = packet.sent_time
            assert sent_at is not None, "a packet in the table was sent"
            if number <= largest - _PACKET_THRESHOLD or sent_at <= now - delay:
                lost.append(packet)
            elif space.loss_time is None:
                # Packets are in the order they were sent: the first is due first.
                space.loss_time = sent_at + delay
        if lost:
            self._on_packets_lost(
                now=now,
                packets=lost,
                persistent_congestion=self._in_persistent_congestion(packets=lost),
                space=space,
            )

    def on_loss_detection_timeout(self, *, now: float) -> None:
        if self._get_loss_space() is None:
            self.probe_timeout_count += 1
        super().on_loss_detection_timeout(now=now)
        self._pto_count = min(self._pto_count, _BACKOFF_MAX)

    def forget_rtt(self, initial_rtt_s: float, now: float) -> None:
        """The path has changed: its round trip is not known, and nothing was tried on it yet."""
        self._rtt_initial = initial_rtt_s
        self._rtt_initialized = False
        self._rtt_first_sample_time = now
        self._rtt_latest = self._rtt_smoothed = self._rtt_variance = 0.0
        self._rtt_min = inf
        self._pto_count = 0
