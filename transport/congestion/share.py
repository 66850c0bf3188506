"""What all connections of a host may send together, beside what each finds its path to carry.

A household lends a part of its uplink. The share is a token bucket in time, without I/O: each byte
moves the common release time on, and every paced connection waits for it. Paths that are not paced
(a LAN) are not the uplink, and are left alone.
"""

from typing import Final

__all__ = ["RATE_MIN_BYTES_S", "UploadShare"]

RATE_MIN_BYTES_S: Final = 16_000
"""128 kbit/s: below it the acknowledgements and pings of a few sessions alone fill the share."""

CREDIT_S: Final = 0.02
"""Of idle time that is made up for: one row of activations leaves whole, no queue forms."""


class UploadShare:
    """Owned by one host, read by the pacer of each of its connections. `now`: monotonic seconds."""

    __slots__ = ("_interval_s", "_release_at")

    def __init__(self, rate_bytes_s: float | None = None) -> None:
        self._interval_s = 0.0
        """Of one byte; 0: no limit."""
        self._release_at = 0.0
        self.set_rate(rate_bytes_s)

    def set_rate(self, rate_bytes_s: float | None) -> None:
        """From now on; None: no limit. Raises ValueError below RATE_MIN_BYTES_S."""
        if rate_bytes_s is not None and rate_bytes_s < RATE_MIN_BYTES_S:
            raise ValueError(f"A share of {rate_bytes_s} bytes/s is below {RATE_MIN_BYTES_S}.")
        self._interval_s = 0.0 if rate_bytes_s is None else 1 / rate_bytes_s

    def release_at(self) -> float:
        """When the next byte may leave; in the past where nothing waits."""
        return self._release_at if self._interval_s else 0.0

    def spend(self, now: float, sent_bytes: int) -> None:
        """So much has left."""
        floor = now - CREDIT_S
        self._release_at = max(self._release_at, floor) + sent_bytes * self._interval_s
