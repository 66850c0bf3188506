"""Which path to take: pure policy over what is known of each. Times are awake seconds."""

import math
from collections.abc import Iterable
from typing import Final

from transport.paths.state import PathState, PathStatus

__all__ = ["PEER_MOVED", "best_answering", "first_path", "upgrade"]

PEER_MOVED: Final = "the peer moved"

FRESH_S: Final = 1.0
"""Nobody moves without need on older evidence."""

CONFIRMED_ANSWERS: Final = 2

HOLD_S: Final = 5.0
HOLD_MAX_S: Final = 120.0
"""A path that fell silent in use is not taken without need for so long, doubled each time."""

SAME_RANK_HOLD_S: Final = 30.0
SAME_RANK_RTT: Final = 0.7
SAME_RANK_GAIN_S: Final = 0.005
"""Between equals: this long in use, and a round trip this much shorter, both."""


def best_answering(paths: Iterable[PathState], since: float | None) -> PathState | None:
    """The best live path that has answered since then (at all, if None)."""
    answering = (
        state
        for state in paths
        if state.status is PathStatus.LIVE and (since is None or state.answered_at >= since)
    )
    return min(answering, key=_order, default=None)


def first_path(paths: Iterable[PathState], since: float | None) -> PathState | None:
    """The path to begin on: the best that answers, else a relay's by which the peer was heard.

    A relay delivers to the peer and to nobody else, so what it brings cannot steer us elsewhere;
    and it passed his probe on because both sides are bound. That saves a round trip.
    """
    every = tuple(paths)
    if (best := best_answering(every, since)) is not None:
        return best
    after = -math.inf if since is None else since
    relays = (state for state in every if state.is_relay and state.status is PathStatus.NEW)
    return min((state for state in relays if state.heard_at > after), key=_order, default=None)


def upgrade(
    current: PathState, paths: Iterable[PathState], at: float, used_at: float
) -> tuple[PathState, str] | None:
    """A path to leave a working one for, and why; PEER_MOVED if the working one seems lost."""
    for state in sorted(paths, key=_order):
        if (
            state is current
            or state.status is not PathStatus.LIVE
            or at - state.answered_at > FRESH_S
        ):
            continue
        if _peer_moved(state, current):
            return state, PEER_MOVED
        if state.answer_count < CONFIRMED_ANSWERS or at < state.failed_at + _hold_s(state):
            continue
        if state.rank.value < current.rank.value:
            return state, "a better path"
        if state.rank is current.rank and _is_much_faster(state, current, at - used_at):
            return state, "a faster path"
    return None


def _peer_moved(state: PathState, current: PathState) -> bool:
    """A new source of his packets, and nothing from the old one since: his NAT rebooted."""
    return (
        state.is_reflexive
        and state.rank.value <= current.rank.value
        and current.heard_at < state.created_at
        and state.heard_at >= state.created_at
    )


def _is_much_faster(state: PathState, current: PathState, used_s: float) -> bool:
    if state.rtt_s is None or current.rtt_s is None or used_s < SAME_RANK_HOLD_S:
        return False
    return (
        state.rtt_s < SAME_RANK_RTT * current.rtt_s
        and current.rtt_s - state.rtt_s >= SAME_RANK_GAIN_S
    )


def _hold_s(state: PathState) -> float:
    if not state.failure_count:
        return -math.inf
    return min(HOLD_S * 2.0 ** (state.failure_count - 1), HOLD_MAX_S)


def _order(state: PathState) -> tuple[int, float]:
    return state.rank.value, math.inf if state.rtt_s is None else state.rtt_s
