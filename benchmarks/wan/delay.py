"""When a datagram comes out of a line: an uplink's rate and queue, then delay, jitter, loss. Pure.

Every peer has one uplink, shared by all it sends: a FIFO queue that drops what does not fit, as a
home router does. Behind it lies a way of its own to every other peer. Downlinks are not bounded:
at home they are several times as fast. Times are seconds of any one clock, given as arguments.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final, NamedTuple

__all__ = ["HEADER_BYTES", "Arrival", "Conditions", "Counts", "Lines"]

HEADER_BYTES: Final = 28
"""IPv4 and UDP: what a datagram takes on the line beyond its payload."""

HELD_MAX: Final = 50_000
"""Datagrams under way in all: 32 peers of 100 Mbit/s at 100 ms have as many."""

JITTER_LIMIT: Final = 4.0
"""Times the standard deviation, so that an outlier does not stall a way."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """The same of every way and uplink."""

    delay_ms: float = 0.0
    """One way."""
    jitter_ms: float = 0.0
    """Standard deviation of the delay; datagrams of one way keep their order."""
    loss: float = 0.0
    """Share of datagrams lost behind the uplink."""
    uplink_mbit: float = 0.0
    """0: not bounded. Of IP packets, headers included."""
    queue_ms: float = 100.0
    """What an uplink's queue holds, as time at its rate."""

    def __str__(self) -> str:
        parts = [f"{self.delay_ms:g} ms a link"]
        if self.uplink_mbit:
            parts.append(f"{self.uplink_mbit:g} Mbit/s uplinks")
        if self.jitter_ms:
            parts.append(f"jitter {self.jitter_ms:g} ms")
        if self.loss:
            parts.append(f"{100 * self.loss:g} % loss")
        return ", ".join(parts)

    def wire_s(self, payload_bytes: int) -> float:
        """How long so many bytes occupy an uplink, without any header."""
        return payload_bytes * 8e-6 / self.uplink_mbit if self.uplink_mbit else 0.0


class Arrival(NamedTuple):
    """A datagram at the far end of its line. Ordered by time, then by when it was sent."""

    due: float
    order: int
    source: int
    target: int
    data: bytes


@dataclass(slots=True)
class Counts:
    """Of one way, since the start; bytes with their headers, as the uplink carries them."""

    datagrams: int = 0
    bytes: int = 0
    lost: int = 0
    overflowed: int = 0


class Lines:
    """All lines of a bed. `accept` puts a datagram in, `due` takes out what has come through."""

    def __init__(self, conditions: Conditions, *, seed: int = 0) -> None:
        self.conditions = conditions
        """May be changed at any time: it counts for datagrams that come in from then on."""
        self.counts: defaultdict[tuple[int, int], Counts] = defaultdict(Counts)
        """By (source, target)."""
        self._random = Random(seed)
        self._held: list[Arrival] = []
        self._order = 0
        self._free_at: defaultdict[int, float] = defaultdict(float)
        """When each peer's uplink has sent all it has."""
        self._last_due: defaultdict[tuple[int, int], float] = defaultdict(float)

    @property
    def next_due(self) -> float | None:
        return self._held[0].due if self._held else None

    def accept(self, source: int, target: int, data: bytes, now: float) -> None:
        """`source` sends; what the queue has no room for, or the way loses, is counted and gone."""
        how, counts = self.conditions, self.counts[source, target]
        size = len(data) + HEADER_BYTES
        sent_at = now
        if how.uplink_mbit:
            begins = max(now, self._free_at[source])
            if (begins - now) * 1000 > how.queue_ms:
                counts.overflowed += 1
                return
            sent_at = self._free_at[source] = begins + size * 8e-6 / how.uplink_mbit
        counts.datagrams += 1
        counts.bytes += size
        if how.loss and self._random.random() < how.loss:
            counts.lost += 1
            return
        if len(self._held) >= HELD_MAX:
            counts.overflowed += 1
            return
        due = max(sent_at + self._delay_s(), self._last_due[source, target])
        self._last_due[source, target] = due
        self._order += 1
        heapq.heappush(self._held, Arrival(due, self._order, source, target, data))

    def due(self, now: float) -> Iterator[Arrival]:
        """Every datagram whose time has come, in order."""
        while self._held and self._held[0].due <= now:
            yield heapq.heappop(self._held)

    def _delay_s(self) -> float:
        how = self.conditions
        if not how.jitter_ms:
            return how.delay_ms / 1000
        spread = self._random.gauss(0, how.jitter_ms)
        limit = JITTER_LIMIT * how.jitter_ms
        return max(0.0, how.delay_ms + max(-limit, min(limit, spread))) / 1000
