"""The small measures a congestion controller is made of. No clock: time comes as an argument."""

from collections import deque
from math import inf, sqrt
from typing import Final

__all__ = ["ExcessLoss", "Growth", "MaxFilter", "RateCap"]


class MaxFilter:
    """The largest value of the last `rounds` round trips."""

    __slots__ = ("_rounds", "value")

    def __init__(self, rounds: int) -> None:
        self._rounds: deque[float] = deque([0.0], rounds)
        self.value = 0.0

    def reset(self, value: float = 0.0) -> None:
        self._rounds.clear()
        self._rounds.append(value)
        self.value = value

    def add(self, value: float) -> None:
        if value > self._rounds[-1]:
            self._rounds[-1] = value
            self.value = max(self.value, value)

    def next_round(self) -> None:
        """Begin another round; the oldest is forgotten. A round without a value is not begun."""
        if self._rounds[-1]:
            self._rounds.append(0.0)
            self.value = max(self._rounds)


class Growth:
    """Whether a rate still grows from round to round, as it does while the path is not full."""

    __slots__ = ("_last", "_rounds", "_top")

    _ROUNDS: Final = 3

    def __init__(self) -> None:
        self._last = self._top = 0.0
        self._rounds = 0

    @property
    def has_begun(self) -> bool:
        return self._last > 0

    def has_ended(self, rate: float, *, is_queueing: bool) -> bool:
        """After a round. Three with hardly any growth, or one with little while a queue stood.

        A queue alone proves nothing: it may be another flow's, and then there is a share to win.
        """
        growth, self._last = rate / self._last if self._last else inf, rate
        if rate > 1.25 * self._top:
            self._top, self._rounds = rate, 0
        else:
            self._rounds += 1
        return self._rounds >= self._ROUNDS or (is_queueing and growth < 1.6)


class RateCap:
    """Holds the rate below what was too much, and lets go by and by. In bytes a second."""

    __slots__ = ("value",)

    _CUT: Final = 0.85
    _REGROWTH: Final = 1.05

    def __init__(self) -> None:
        self.value = inf

    def cut(self, rate: float, delivered: float) -> None:
        """Never below what was delivered last: or a line with a great loss would be given up."""
        self.value = max(self._CUT * rate, delivered)

    def on_round(self, bandwidth: float) -> None:
        self.value *= self._REGROWTH
        if self.value > 1.25 * bandwidth:
            self.value = inf


class ExcessLoss:
    """Whether more is lost than a noisy line explains: a share above `share`, beyond chance.

    Losses on a line without congestion come by themselves, so their number in n packets spreads by
    about its square root; twice that above the expected number is taken for congestion.
    """

    __slots__ = ("_lost", "_sent", "_share")

    _MEMORY_PACKETS: Final = 512
    """Then both counts are halved: what happened long ago fades."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._sent = self._lost = 0.0

    def reset(self) -> None:
        self._sent = self._lost = 0.0

    def on_acked(self, packets: float) -> None:
        self._sent += packets
        if self._sent > self._MEMORY_PACKETS:
            self._sent /= 2
            self._lost /= 2

    def on_lost(self, packets: int) -> bool:
        """True if losses are excessive; counting then begins anew."""
        self._sent += packets
        self._lost += packets
        expected = self._share * self._sent
        if self._lost <= 2 + expected + 2 * sqrt(expected):
            return False
        self.reset()
        return True
