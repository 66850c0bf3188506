"""Is the peer of a connection still there? When to ping, and when to give up.

With streams open, silence is doubtful after 1.5 s; without, after the keepalive. From then on a
ping goes out every second, and a peer that was silent for 5 s and left three pings unanswered is
gone. QUIC's own idle timeout (RFC 9000 section 10.1) stays behind it. Time in which this process
itself did not run does not count. No I/O; `now` is an argument (monotonic seconds).
"""

from enum import Enum

from transport.paths.awake_clock import AwakeClock
from transport.quic.settings import QuicSettings

__all__ = ["Liveness", "Verdict"]


class Verdict(Enum):
    FINE = "fine"
    PING = "ping"
    """Send one now."""
    GONE = "gone"


class Liveness:
    """Owned by one connection; call `check` at or after `next_check`, as often as liked."""

    __slots__ = ("_clock", "_heard_at", "_next_ping_at", "_settings", "unanswered_count")

    def __init__(self, settings: QuicSettings, now: float) -> None:
        self._settings = settings
        self._clock = AwakeClock()
        self._heard_at = now
        self._next_ping_at = now
        self.unanswered_count = 0
        """Pings since something was last heard."""

    @property
    def slept_s(self) -> float:
        """Time so far in which this process did not run, as far as its timers show."""
        return self._clock.slept_s

    def on_heard(self, now: float) -> None:
        """A packet of the peer was decrypted."""
        self._heard_at = self._clock.read(now)
        self._next_ping_at = self._heard_at
        self.unanswered_count = 0

    def check(self, now: float, *, is_busy: bool) -> Verdict:
        """`is_busy`: streams are open, so somebody waits for this peer."""
        awake = self._clock.read(now)
        silent_s = awake - self._heard_at
        settings = self._settings
        if (
            silent_s >= settings.silence_max_s
            and self.unanswered_count >= settings.unanswered_pings_max
            and awake >= self._next_ping_at
        ):
            self._next_ping_at = awake + settings.ping_interval_s
            return Verdict.GONE
        if silent_s >= self._patience_s(is_busy) and awake >= self._next_ping_at:
            self.unanswered_count += 1
            self._next_ping_at = awake + settings.ping_interval_s
            if self.unanswered_count >= settings.unanswered_pings_max:
                # The verdict follows when this ping had its time, and the limit is reached.
                self._next_ping_at = max(
                    min(self._next_ping_at, self._heard_at + settings.silence_max_s),
                    awake + settings.ping_answer_s,
                )
            return Verdict.PING
        return Verdict.FINE

    def next_check(self, *, is_busy: bool) -> float:
        """When `check` will have something to say (real time)."""
        due = max(self._heard_at + self._patience_s(is_busy), self._next_ping_at)
        due += self._clock.slept_s
        self._clock.expect(due)
        return due

    def _patience_s(self, is_busy: bool) -> float:
        settings = self._settings
        if is_busy:
            return min(settings.busy_silence_s, settings.keepalive_s)
        return settings.keepalive_s
