"""What a hop has sent onward, kept so that a hop that takes the next one's place can be told.

Rows are held as they travelled (wire dtype), each of the same size, so that an entry can be cut
between any two. All logs of a node share one budget; a log that does not fit is dropped whole:
repair then walks back to the hop before, see `HeadSession.unable`. No I/O here.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from protocol.errors import LocalProtocolError
from protocol.limits import STEP_TOKENS_MAX

__all__ = ["REPLAY_CHUNK_ROWS", "REPLAY_LOG_BYTES_MAX", "LogCursor", "ReplayBudget", "ReplayLog"]

REPLAY_LOG_BYTES_MAX = 512 * 1024 * 1024
"""Of all sessions of a node: 65 536 rows of 4096 values in bf16."""

REPLAY_CHUNK_ROWS = 128
"""Rows of one REPLAY: enough to use an engine well, few enough that the hops of a ring work side
by side on the parts of one replay."""
assert REPLAY_CHUNK_ROWS <= STEP_TOKENS_MAX

REPLAY_CHUNK_BYTES = 4 * 1024 * 1024
"""Of one REPLAY, where rows are wide: a quarter of what a frame may have."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows [position, position + count) in the wire dtype."""

    position: int
    count: int
    payload: bytes


class ReplayBudget:
    """Payload bytes that all replay logs of a node may hold together."""

    def __init__(self, bytes_max: int = REPLAY_LOG_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self.used_bytes = 0

    def take(self, size: int) -> bool:
        """Whether there was room; then it is taken."""
        if self.used_bytes + size > self.bytes_max:
            return False
        self.used_bytes += size
        return True

    def give_back(self, size: int) -> None:
        self.used_bytes -= size
        assert self.used_bytes >= 0


class LogCursor:
    """How far one who copies the log has come. Told of every change by `on_change`."""

    def __init__(self, position: int, on_change: Callable[[], None]) -> None:
        self.position = position
        """The next row to copy."""
        self._on_change = on_change
        self._cut_to: int | None = None

    def take_cut(self) -> int | None:
        """Where rows that were copied begin to be void, if any are; asked once for each cut."""
        cut, self._cut_to = self._cut_to, None
        return cut

    def note_append(self) -> None:
        self._on_change()

    def note_truncate(self, position: int) -> None:
        if position < self.position:
            self.position = self._cut_to = position
            self._on_change()


class ReplayLog:
    """One session's rows, in order and without gaps. `row_bytes`: of one row, always the same."""

    def __init__(self, row_bytes: int, budget: ReplayBudget, *, start: int = 0) -> None:
        """`start`: rows that were here before anything was sent, and so cannot be given."""
        self.first = start
        """The first row that can be given; those before it are not held."""
        self.end = start
        """Behind the last row."""
        self._row_bytes = row_bytes
        self.chunk_rows = max(1, min(REPLAY_CHUNK_ROWS, REPLAY_CHUNK_BYTES // row_bytes))
        """Rows of one REPLAY at most."""
        self._budget = budget
        self._positions: list[int] = []
        self._payloads: list[bytes] = []
        self._cursors: list[LogCursor] = []

    def append(self, position: int, count: int, payload: bytes) -> None:
        """Keep rows that follow the last; where the budget has no room, drop all there is."""
        if position != self.end or len(payload) != count * self._row_bytes:
            raise LocalProtocolError(f"{count} rows at {position} do not follow row {self.end}.")
        self.end += count
        if self._budget.take(len(payload)):
            self._positions.append(position)
            self._payloads.append(payload)
        else:
            self._drop()
            self.first = self.end
        for cursor in self._cursors:
            cursor.note_append()

    def truncate(self, position: int) -> None:
        """Forget every row at or after `position`."""
        while self._positions and self._positions[-1] >= position:
            self._positions.pop()
            self._budget.give_back(len(self._payloads.pop()))
        if self._payloads:
            size = (position - self._positions[-1]) * self._row_bytes
            last = self._payloads[-1]
            if size < len(last):
                self._payloads[-1] = last[:size]
                self._budget.give_back(len(last) - size)
        self.first, self.end = min(self.first, position), min(self.end, position)
        for cursor in self._cursors:
            cursor.note_truncate(position)

    def read(self, start: int, stop: int) -> Chunk | None:
        """Rows from `start` on, as many as one REPLAY has, none at or after `stop`; None if none.

        Raises LocalProtocolError for rows before `first`.
        """
        stop = min(stop, self.end, start + self.chunk_rows)
        if start >= stop:
            return None
        if start < self.first:
            raise LocalProtocolError(f"Row {start} was not kept; the first is {self.first}.")
        parts: list[bytes] = []
        index = bisect_right(self._positions, start) - 1
        position = start
        while position < stop:
            payload, begin = self._payloads[index], self._positions[index]
            part = payload[(position - begin) * self._row_bytes : (stop - begin) * self._row_bytes]
            parts.append(part)
            position += len(part) // self._row_bytes
            index += 1
        return Chunk(start, stop - start, parts[0] if len(parts) == 1 else b"".join(parts))

    def follow(self, position: int, on_change: Callable[[], None]) -> LogCursor:
        """A cursor that is told what happens to the log, until `unfollow`."""
        cursor = LogCursor(position, on_change)
        self._cursors.append(cursor)
        return cursor

    def unfollow(self, cursor: LogCursor) -> None:
        self._cursors.remove(cursor)

    def close(self) -> None:
        """Give back what is held; the log is over."""
        self._drop()
        self.first = self.end

    def _drop(self) -> None:
        self._budget.give_back(sum(map(len, self._payloads)))
        self._positions.clear()
        self._payloads.clear()
