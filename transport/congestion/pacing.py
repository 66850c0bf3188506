"""When the next datagram may leave: a token bucket in time, without I/O.

It takes the place of aioquic's pacer and has its method names. That one forgives debt: a timer that
is a little early sends up to twice the nominal rate. Here each datagram moves the release time on
by what it costs, and only `credit_s` of idle time is ever made up for.
"""

from typing import Final, Protocol

from transport.congestion.share import UploadShare

__all__ = ["Pacer", "PacingRate"]

CREDIT_S: Final = 0.008
"""What a late turn of the event loop may make up for; also the burst after a pause: 16 KiB at
20 Mbit/s leave at once, and no buffer of a home router is smaller."""

CREDIT_BYTES: Final = 14_720
"""The same where little was sent, so that the rate is an underestimate: RFC 9002 section 7.7 lets
an initial window leave at once after a pause. A row of activations fits, and is not cut in two."""

BURST_S: Final = 0.003
"""Datagrams of this much time leave together: three timer steps of uvloop, one GSO send."""

BURST_DATAGRAMS_MAX: Final = 40
"""Fits one segmented send."""


class PacingRate(Protocol):
    """Whoever decides on the rate: the congestion controller."""

    @property
    def pacing_rate_bytes_s(self) -> float | None:
        """None: do not pace."""


class Pacer:
    """Owned by one connection. `now` is `time.monotonic()`: uvloop's clock has steps of 1 ms."""

    __slots__ = (
        "_burst_s",
        "_credit_s",
        "_datagram_bytes",
        "_interval_s",
        "_release_at",
        "_settled_at",
        "_share",
        "_source",
    )

    def __init__(
        self, source: PacingRate, *, datagram_bytes: int, share: UploadShare | None = None
    ) -> None:
        self._source = source
        self._share = share
        """What the host's connections may send together."""
        self._datagram_bytes = datagram_bytes
        self._interval_s = 0.0
        """Time one datagram takes; 0 when nothing is paced."""
        self._burst_s = 0.0
        self._credit_s = CREDIT_S
        self._release_at = 0.0
        self._settled_at = 0.0
        """`_release_at` without the datagrams that are being built."""

    def set_datagram_bytes(self, datagram_bytes: int) -> None:
        self._datagram_bytes = datagram_bytes
        self.refresh()

    def refresh(self) -> None:
        """Take the rate over from the controller."""
        rate = self._source.pacing_rate_bytes_s
        if rate is None:
            self._interval_s = 0.0
            return
        interval = self._interval_s = self._datagram_bytes / rate
        self._burst_s = min(BURST_S, BURST_DATAGRAMS_MAX * interval)
        self._credit_s = max(CREDIT_S, CREDIT_BYTES / rate)

    def settle(self, now: float, sent_bytes: int) -> None:
        """What the datagrams just built really cost: acknowledgements alone are not paced.

        They are sent however late the release is. Were each counted as a full datagram, a receiver
        of much would find itself seconds in debt when it has something to say.
        """
        if sent_bytes > 0:
            cost = self._interval_s * sent_bytes / self._datagram_bytes
            self._settled_at = max(self._settled_at, now - self._credit_s) + cost
            if self._share is not None and self._interval_s:
                self._share.spend(now, sent_bytes)
        self._release_at = self._settled_at

    # The methods aioquic calls

    def next_send_time(self, now: float) -> float | None:
        """None if a datagram may leave now; else when to ask again: when a burst is due."""
        release_at = self._release_at
        if self._share is not None:
            release_at = max(release_at, self._share.release_at())
        if release_at <= now or not self._interval_s:
            return None
        return release_at + self._burst_s

    def update_after_send(self, now: float) -> None:
        """One more datagram is built, for now taken for a full one."""
        floor = now - self._credit_s
        release_at = self._release_at
        self._release_at = (release_at if release_at > floor else floor) + self._interval_s

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        """After each ACK and loss. aioquic's own rule for the rate is not used."""
        self.refresh()
