"""The phases of the congestion controller, how fast each sends, and its other numbers."""

from enum import Enum, auto
from typing import Final

__all__ = [
    "BANDWIDTH_ROUNDS",
    "CRUISE_ROUNDS",
    "INITIAL_WINDOW",
    "LOSS_SHARE",
    "MINIMUM_WINDOW",
    "PACING_GAIN",
    "SEEDED_GAIN",
    "WINDOW_GAIN",
    "Phase",
]


class Phase(Enum):
    """What the controller is about."""

    STARTUP = auto()
    """Doubles the rate each round trip until it no longer grows, or a queue stands."""
    DRAIN = auto()
    """Lets the queue run empty that startup has made."""
    CRUISE = auto()
    """A little below the bandwidth, so that no queue builds up."""
    UP = auto()
    """One round trip faster than the bandwidth: is there more?"""
    DOWN = auto()
    """Takes back what that has put into the queue."""
    PROBE_RTT = auto()
    """Nearly empties the path, to see its shortest round trip, or that another fills the queue."""
    COMPETE = auto()
    """Beside a flow that fills the queue: does the same (`congestion_cubic`)."""
    TEST = auto()
    """PROBE_RTT while competing: has the other flow left?"""


PACING_GAIN: Final = {
    Phase.STARTUP: 2.77,  # 4 ln 2 (BBR): the least that doubles the rate each round trip
    Phase.DRAIN: 0.5,
    Phase.CRUISE: 0.94,  # noise makes the bandwidth look some per cent too large
    Phase.UP: 1.25,
    Phase.DOWN: 0.7,
    Phase.PROBE_RTT: 0.5,
    Phase.COMPETE: 1.25,
    Phase.TEST: 0.5,
}
"""Of the bandwidth; while competing, of the window over the round trip."""

BANDWIDTH_ROUNDS: Final = 10
"""Of these the largest delivery rate is taken: more than from one probe to the next."""

LOSS_SHARE: Final = 0.02
"""More is congestion, and the rate is cut; less is the line's."""

INITIAL_WINDOW: Final = 32
MINIMUM_WINDOW: Final = 4
"""In datagrams. The first ones are paced over the handshake's round trip, so they are no burst."""

SEEDED_GAIN: Final = 2.0
"""Startup's, where the rate is known within a factor: more would only overshoot."""

CRUISE_ROUNDS: Final = (4, 8)
"""Between two probes; drawn by chance, so that flows do not probe in step."""

WINDOW_GAIN: Final = {
    Phase.STARTUP: 2.0,
    Phase.DRAIN: 1.75,
    Phase.CRUISE: 1.75,
    Phase.UP: 1.75,
    Phase.DOWN: 1.75,
    Phase.PROBE_RTT: 0.5,
    Phase.COMPETE: 1.75,
    Phase.TEST: 0.5,
}
"""Of bandwidth times shortest round trip; while competing, the least. Above 1 because pacing, not
the window, is to hold the rate: round trips vary, and the bandwidth is an estimate."""
