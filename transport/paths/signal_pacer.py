"""How often to ask for another punch: at once when something changed, then ever more rarely."""

import math
from typing import Final

__all__ = ["SignalPacer"]

_FIRST_S: Final = 10.0
"""After the first path is found; the punch that came with it takes up to 7 s."""

_GAP_MAX_S: Final = 300.0
"""Between attempts while only relays work: NATs that do not let us through seldom change."""

_URGENT_GAP_S: Final = 2.0
"""Between any two: signalling is a round trip through a relay, and the punch itself takes time."""


class SignalPacer:
    """Owned by one path manager."""

    def __init__(self) -> None:
        self.due_at = math.inf
        self._gap_s = _FIRST_S
        self._asked_at = -math.inf

    def start(self, at: float) -> None:
        """A relay is in use: look for something better, more and more rarely."""
        if self.due_at == math.inf:
            self.due_at = at + self._gap_s

    def reset(self, at: float) -> None:
        """What failed before may work now."""
        self._gap_s = _FIRST_S
        self.due_at = at + self._gap_s

    def stop(self) -> None:
        """A direct path is in use."""
        self._gap_s, self.due_at = _FIRST_S, math.inf

    def is_due(self, at: float) -> bool:
        return at >= self.due_at

    def may_ask(self, at: float) -> bool:
        """Whether to ask now; counts as asked if so."""
        if at >= self.due_at:
            self._gap_s = min(2 * self._gap_s, _GAP_MAX_S)
            self.due_at = at + self._gap_s
        if at - self._asked_at < _URGENT_GAP_S:
            return False
        self._asked_at = at
        return True
