"""Congestion control for home links: keeps the rate under random loss, and the queue short.

A model of the path instead of a reaction to loss: the bandwidth is the largest delivery rate of the
last rounds, the delay the shortest round trip. What is sent is paced at about that bandwidth, what
is in flight kept near their product (BDP). Known work: BBR (draft-ietf-ccwg-bbr), and from Copa
(NSDI 2018) that a flow which finds the queue standing whatever it does shares it with one that
fills queues, and must do the same until that one has left.

    STARTUP ─► DRAIN ─► CRUISE ─► UP ─► DOWN ─► CRUISE …
       ▲                  │ the queue stands, or the shortest round trip was not seen for long
       │                  ▼
       │              PROBE_RTT ─► UP           it ran empty
       │                  ▼                     it stands although we drained: another fills it
       │               COMPETE ◄─► TEST
       └───────────────────────────┘            it ran empty: the other has left

No I/O, no clock, nothing of aioquic: the methods that aioquic calls take its packets, `now` and
`rtt` in seconds. Owned by one connection.
"""

from collections.abc import Iterable
from math import inf
from random import Random
from typing import Any, Final

from transport.congestion import phases as numbers
from transport.congestion.cubic import CubicWindow
from transport.congestion.filters import ExcessLoss, Growth, MaxFilter, RateCap
from transport.congestion.lan_window import LanWindow
from transport.congestion.meter import DeliveryMeter, Sample
from transport.congestion.phases import Phase
from transport.congestion.rivalry import Rivalry
from transport.congestion.rtt import RoundTrips

__all__ = ["CongestionController"]

_ACK_SLACK_S: Final = 0.010
"""Twice the ACK delay of our peers: what has arrived but is not acknowledged needs room too."""

_FOUND: Final = 1.05
"""A probe that finds so much more is followed by another at once."""

_CAPACITY_FADE: Final = 0.998
"""A round's: what the line once carried counts for some hundred round trips."""


class CongestionController(DeliveryMeter):
    """Decides `window_bytes` and `pacing_rate_bytes_s` (None: do not pace)."""

    def __init__(self, *, datagram_bytes: int, random: Random | None = None) -> None:
        super().__init__()
        self._random = random or Random()
        self._datagram_bytes = datagram_bytes
        self._bandwidth = MaxFilter(numbers.BANDWIDTH_ROUNDS)
        self._loss = ExcessLoss(numbers.LOSS_SHARE)
        self._begin(0.0)

    def _begin(self, bandwidth_bytes_s: float) -> None:
        """Know nothing of the path but a guess of its bandwidth (0: not even that)."""
        self.phase = Phase.STARTUP
        self.window_bytes = float(numbers.INITIAL_WINDOW * self._datagram_bytes)
        self.pacing_rate_bytes_s: float | None = None
        self._rtt = RoundTrips()
        self._bandwidth.reset(bandwidth_bytes_s)
        self._capacity_bytes_s = self._up_from = self._latest_bytes_s = 0.0
        self._startup_gain = numbers.PACING_GAIN[Phase.STARTUP]
        self._is_measured = False
        self._loss.reset()
        self._cap, self._answered_at = RateCap(), -inf
        self._growth = Growth()
        self._phase_at, self._rounds_left, self._standing_cycles = 0.0, 0, 0
        self._hold_until: float | None = None
        self._rivalry: Rivalry | None = None
        self._lan: LanWindow | None = None

    # What is known, and what is told from outside

    @property
    def bandwidth_bytes_s(self) -> float | None:
        """None until the path, and not the sender, has limited a measurement. Beside a rival, what
        the line carried before: it is to be remembered."""
        known = max(self._bandwidth.value, self._capacity_bytes_s)
        return known if self._is_measured else None

    @property
    def min_rtt_s(self) -> float:
        """Infinite before the first sample."""
        return self._rtt.min_s

    def seed(self, bandwidth_bytes_s: float, min_rtt_s: float) -> None:
        """Begin with half of what the path once carried: far from nothing, and safe if it fell.

        The first round trip goes out at the whole rate: one BDP at most is too much.
        """
        self._begin(bandwidth_bytes_s / 2)
        self._startup_gain = numbers.SEEDED_GAIN
        self.window_bytes = max(self.window_bytes, bandwidth_bytes_s * min_rtt_s)
        self.pacing_rate_bytes_s = bandwidth_bytes_s

    def relax_for_lan(self, window_datagrams: int) -> None:
        """Instead of the model a large window, unpaced, until the path changes."""
        self._lan = LanWindow(datagrams=window_datagrams, datagram_bytes=self._datagram_bytes)
        self.window_bytes = self._lan.window_bytes
        self.pacing_rate_bytes_s = None

    def change_path(self, now: float, *, keep_estimates: bool) -> None:
        """Packets sent until now tell nothing about the new path."""
        self.forget_path(now)
        if self._lan is not None or not keep_estimates:
            self._begin(0.0)

    def set_datagram_bytes(self, datagram_bytes: int) -> None:
        self._datagram_bytes = datagram_bytes

    # What aioquic tells

    def on_rtt_measurement(self, *, now: float, rtt: float) -> None:
        """The end of an ACK that acknowledged the newest packet for the first time."""
        sample = self._close_sample(now)
        if sample is None:
            return
        self._rtt.note(now, rtt)
        if self._lan is not None:
            if not sample.is_app_limited:
                self._lan.on_acked(sample.acked_bytes)
                self.window_bytes = self._lan.window_bytes
            return
        if sample.rate_bytes_s > self._bandwidth.value or not sample.is_app_limited:
            self._bandwidth.add(sample.rate_bytes_s)
        self._loss.on_acked(sample.acked_bytes / self._datagram_bytes)
        if sample.is_round_over:
            self._on_round(now, sample)
        self._advance(now)
        self._set_window(now, sample)

    def on_packets_lost(self, *, now: float, packets: Iterable[Any]) -> None:
        count, newest_at = 0, -inf
        for packet in packets:
            self.bytes_in_flight -= packet.sent_bytes
            if packet.sent_time > self._path_since:
                count += 1
                newest_at = packet.sent_time
        if newest_at <= self._answered_at:
            return  # sent before the last answer to a loss, so lost for the same reason
        if self._lan is not None:
            self._lan.on_lost(now, newest_at)
            self.window_bytes = self._lan.window_bytes
        elif self._rivalry is not None:
            self._rivalry.cubic.on_lost(now, newest_at, self._rtt.queue_s)
        elif self._loss.on_lost(count):
            self._answered_at = now
            self._on_excess_loss(now)

    def on_persistent_congestion(self) -> None:
        """Nothing came through for some time (RFC 9002 section 7.6): begin again, with care."""
        if self._lan is None:  # a LAN's window was halved by these losses
            trips = self._rtt
            self._begin(self._bandwidth.value / 2)
            self._rtt = trips
            self.window_bytes = float(numbers.MINIMUM_WINDOW * self._datagram_bytes)

    # The model

    def _on_round(self, now: float, sample: Sample) -> None:
        floor = self._rtt.take_round_floor()
        self._bandwidth.next_round()
        self._cap.on_round(self._bandwidth.value)
        self._rounds_left -= 1
        self._latest_bytes_s = sample.rate_bytes_s
        if sample.is_app_limited:
            return
        if self.phase is Phase.STARTUP:
            is_queueing = self._rtt.is_longer(floor)
            if self._growth.has_ended(self._bandwidth.value, is_queueing=is_queueing):
                self._enter(Phase.DRAIN, now)
            return
        self._is_measured = True
        if self.phase is Phase.CRUISE and not self._rtt.is_standing(floor):
            faded = _CAPACITY_FADE * self._capacity_bytes_s
            self._capacity_bytes_s = max(faded, self._bandwidth.value)

    def _on_excess_loss(self, now: float) -> None:
        """More was lost than a noisy line loses. A probe that went too far is only ended."""
        if self.phase is Phase.STARTUP:
            # Lost before anything was measured: another flow's queue was full when we came.
            if self._growth.has_begun:
                self._enter(Phase.DRAIN, now)
        elif self.phase is Phase.UP:
            self._enter(Phase.DOWN, now)
        else:
            self._cap.cut(self._rate(), self._latest_bytes_s)

    def _rate(self) -> float:
        return min(self._bandwidth.value, self._cap.value)

    # The phases

    def _enter(self, phase: Phase, now: float) -> None:
        self.phase = phase
        self._phase_at = now
        self._hold_until = None
        if phase is Phase.CRUISE:
            self._rounds_left = self._random.randint(*numbers.CRUISE_ROUNDS)
        elif phase is Phase.DOWN:
            self._rtt.cycle_floor_s = inf
        elif phase is Phase.STARTUP:
            self._growth = Growth()
        elif phase is Phase.UP:
            self._up_from = self._bandwidth.value
        elif phase is Phase.DRAIN:
            self._is_measured = True

    def _advance(self, now: float) -> None:
        """The next phase, if this one has done its work."""
        phase, trips = self.phase, self._rtt
        elapsed = now - self._phase_at
        if phase is Phase.CRUISE:
            if self._rounds_left <= 0:
                self._end_cycle(now)
        elif phase is Phase.DOWN or phase is Phase.DRAIN:
            if self.bytes_in_flight <= self._filled_bytes() or elapsed > 3 * trips.smoothed_s:
                self._settle(now)
        elif phase is Phase.UP:
            is_filled = self.bytes_in_flight >= numbers.PACING_GAIN[Phase.UP] * self._filled_bytes()
            if elapsed > trips.min_s and (is_filled or elapsed > 2 * trips.smoothed_s):
                self._enter(Phase.DOWN, now)
        elif phase is Phase.PROBE_RTT or phase is Phase.TEST:
            self._hold(now)
        elif self._rivalry is not None and self._rivalry.is_test_due(now, trips.queue_s):
            self._enter(Phase.TEST, now)

    def _settle(self, now: float) -> None:
        """The queue is ours no more. If the last probe found more, look on at once."""
        if self.phase is Phase.DOWN and self._bandwidth.value > _FOUND * self._up_from:
            self._cap = RateCap()
            self._enter(Phase.UP, now)
        else:
            self._enter(Phase.CRUISE, now)

    def _filled_bytes(self) -> float:
        """In flight when the path is full and its queue empty."""
        return self._rate() * (self._rtt.min_s + _ACK_SLACK_S / 4)

    def _end_cycle(self, now: float) -> None:
        trips = self._rtt
        floor = trips.cycle_floor_s
        self._standing_cycles = self._standing_cycles + 1 if trips.is_standing(floor) else 0
        is_doubted = self._standing_cycles >= 2 or trips.is_far_above(floor)
        self._enter(Phase.PROBE_RTT if is_doubted or trips.is_stale(now) else Phase.UP, now)

    def _hold(self, now: float) -> None:
        """Drained as far as it is ours to drain: look at the round trips of a whole round."""
        trips = self._rtt
        if self._hold_until is None:
            if self.bytes_in_flight <= self.window_bytes + self._datagram_bytes:
                self._hold_until = now + trips.smoothed_s + trips.min_s
                trips.cycle_floor_s = inf
        elif now >= self._hold_until:
            self._standing_cycles = 0
            if trips.has_rival(now, trips.cycle_floor_s):
                self._compete(now)
            elif self._rivalry is None:
                self._enter(Phase.UP, now)
            else:
                self._rivalry = None
                self._enter(Phase.STARTUP, now)

    def _compete(self, now: float) -> None:
        if self._rivalry is None:
            window = max(self._rate() * self._rtt.smoothed_s, self.window_bytes)
            cubic = CubicWindow(window, self._capacity_bytes_s, self._datagram_bytes)
            self._rivalry = Rivalry(now, cubic)
            self._cap = RateCap()
        else:
            self._rivalry.resume(now)
        self._enter(Phase.COMPETE, now)

    # Window and rate

    def _set_window(self, now: float, sample: Sample) -> None:
        rate, phase, trips = self._rate(), self.phase, self._rtt
        minimum = float(numbers.MINIMUM_WINDOW * self._datagram_bytes)
        window = numbers.WINDOW_GAIN[phase] * rate * trips.min_s
        pacing = numbers.PACING_GAIN[phase] * rate
        if phase is not Phase.PROBE_RTT and phase is not Phase.TEST:
            window += rate * _ACK_SLACK_S
        if phase is Phase.STARTUP:
            # At first the rate is what the handshake's few packets had: the window knows better.
            pacing = max(self._startup_gain * rate, self.window_bytes / trips.smoothed_s)
            grown = self.window_bytes + sample.acked_bytes
            window = max(self.window_bytes, min(grown, window))
        elif phase is Phase.COMPETE and self._rivalry is not None:
            cubic = self._rivalry.cubic
            if not sample.is_app_limited:
                cubic.on_acked(now, sample.acked_bytes, trips.smoothed_s, trips.queue_s)
            window = max(window, cubic.window_bytes)
            pacing = numbers.PACING_GAIN[phase] * window / trips.smoothed_s
        self.window_bytes = max(window, minimum)
        self.pacing_rate_bytes_s = max(pacing, minimum / trips.smoothed_s)
