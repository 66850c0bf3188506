"""The fake's own clock: it stands still until it is moved, unless it is told to follow another."""

from collections.abc import Callable

__all__ = ["FakeClock"]

START_S = 1_800_000_000


class FakeClock:
    """Unix seconds; keys are forgotten, funds become available and webhooks are sent by it."""

    def __init__(self, now_s: int = START_S) -> None:
        self._now_s = now_s
        self._source: Callable[[], int] | None = None

    def now_s(self) -> int:
        return self._source() if self._source else self._now_s

    def advance(self, seconds: int) -> None:
        """Move it; a clock that follows another cannot be moved here."""
        assert self._source is None, "it follows another clock"
        self._now_s += seconds

    def set(self, now_s: int) -> None:
        assert self._source is None, "it follows another clock"
        self._now_s = now_s

    def follow(self, source: Callable[[], int]) -> None:
        """From now on the same time as somebody else's."""
        self._source = source
