"""The paths of one link: a bounded table, and what became of those that left it."""

from collections import deque
from collections.abc import Iterator
from typing import Final

from transport.base import PathKind
from transport.paths.path_address import PathAddress
from transport.paths.state import PathReport, PathState, PathStatus

__all__ = ["PATHS_MAX", "PathSet"]

PATHS_MAX: Final = 16
"""LAN, IPv6 and observed addresses of two interfaces, two relays, a tunnel, and some to spare."""

_REFLEXIVE_NEW_MAX: Final = 6
"""Learned from a source and not proved: whoever replays probes must not push out real paths."""

_REPORTS_MAX: Final = 64


class PathSet:
    """Owned by one path manager."""

    def __init__(self) -> None:
        self._states: dict[PathAddress, PathState] = {}
        self._ended: deque[PathReport] = deque(maxlen=_REPORTS_MAX)

    def __iter__(self) -> Iterator[PathState]:
        return iter(tuple(self._states.values()))

    def get(self, path: PathAddress) -> PathState | None:
        return self._states.get(path)

    def add(
        self, path: PathAddress, kind: PathKind, now: float, *, reflexive: bool = False
    ) -> PathState | None:
        """The path's state, new or known; None when there is no room for it."""
        if (known := self._states.get(path)) is not None:
            return known
        if reflexive:
            self._limit_reflexive()
        if len(self._states) >= PATHS_MAX and not self._evict():
            return None
        state = self._states[path] = PathState(path, kind, now, reflexive=reflexive)
        return state

    def has_live(self, *, beside: PathState | None = None) -> bool:
        """Whether a path answers, other than that one."""
        return any(state.status is PathStatus.LIVE for state in self if state is not beside)

    def remove(self, state: PathState, report: PathReport) -> None:
        self._states.pop(state.path, None)
        self.record(report)

    def record(self, report: PathReport) -> None:
        self._ended.append(report)

    @property
    def ended(self) -> tuple[PathReport, ...]:
        return tuple(self._ended)

    def _limit_reflexive(self) -> None:
        unproved = [s for s in self if s.is_reflexive and s.status is PathStatus.NEW]
        if len(unproved) >= _REFLEXIVE_NEW_MAX:
            del self._states[min(unproved, key=lambda s: s.created_at).path]

    def _evict(self) -> bool:
        """Forget the direct path of which least was heard; never a live one or a relay."""
        candidates = [s for s in self if s.status is not PathStatus.LIVE and not s.is_relay]
        if not candidates:
            return False
        del self._states[min(candidates, key=lambda s: (s.heard_at, s.created_at)).path]
        return True
