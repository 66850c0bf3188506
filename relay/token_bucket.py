"""A token bucket: so much a second, and a burst. Pure; `now` is monotonic seconds."""

__all__ = ["TokenBucket"]


class TokenBucket:
    """Full when made.

    Whatever is left lets one more amount through, however large, and the debt is paid before the
    next: so the rate holds, and no amount is too large to ever pass.
    """

    __slots__ = ("_burst", "_counted_at", "_per_s", "_tokens")

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._counted_at = now

    def take(self, amount: float, now: float) -> bool:
        """Whether `amount` may be used now; if not, nothing is taken."""
        tokens = self._tokens + (now - self._counted_at) * self._per_s
        self._tokens = tokens if tokens < self._burst else self._burst
        self._counted_at = now
        if self._tokens <= 0:
            return False
        self._tokens -= amount
        return True
