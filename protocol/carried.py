"""What a hop has carried after each of its latest steps: a CLOSE or a repair may refer back."""

from collections import deque
from dataclasses import dataclass

from protocol.errors import RemoteProtocolError
from protocol.frame import LOOP_MAX
from protocol.money import Work
from protocol.session import STEPS_IN_FLIGHT_MAX
from protocol.tensor import LINK_HASH_START

__all__ = ["Carried", "History"]

HISTORY_MAX = 2 * STEPS_IN_FLIGHT_MAX + LOOP_MAX
"""Totals kept: as many steps as can be on their way round, a loop's too."""

_NOTHING = Work()


@dataclass(frozen=True, slots=True)
class Carried:
    """Totals: `tokens` and `work` since the lease began, the rest since the epoch did."""

    steps: int = 0
    tokens: int = 0
    work: Work = _NOTHING
    link_in_hash: bytes = LINK_HASH_START
    link_out_hash: bytes = LINK_HASH_START


class History:
    """Of one epoch, which begins at `start`."""

    def __init__(self, start: Carried) -> None:
        self._totals: deque[Carried] = deque([start], maxlen=HISTORY_MAX)

    @property
    def last(self) -> Carried:
        """As of now."""
        return self._totals[-1]

    @last.setter
    def last(self, carried: Carried) -> None:
        self._totals[-1] = carried

    def append(self, carried: Carried) -> None:
        """A further step was carried."""
        self._totals.append(carried)

    def as_of(self, steps: int) -> Carried:
        """When so many results of this epoch had reached the head. Raises RemoteProtocolError."""
        for carried in reversed(self._totals):
            if carried.steps <= steps:
                return carried
        raise RemoteProtocolError(f"The head refers to step {steps}, too far back to recall.")
