"""Whose turn it is: sequences that wait, by lease, so that leases share the engine's rows evenly.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): each lease has a tag, the rows it
was given; the lowest is next. While two leases both have something waiting, what they are given
differs by at most the largest two grants; and nobody saves up turns while having nothing to run.
Within a lease, sequences go round.
"""

import heapq
import itertools
from collections import OrderedDict
from dataclasses import dataclass, field

__all__ = ["Turns"]

DEBTS_MAX = 1024
"""Leases without anything waiting whose tag is remembered: as many as there can be steps queued."""


@dataclass(slots=True)
class _Lease:
    tag: int
    place: int
    """Its entry in the heap; an entry of another place is void."""
    sequences: OrderedDict[int, None] = field(default_factory=OrderedDict)


class Turns:
    """The sequences of one kind of step, in the order in which they are to run."""

    def __init__(self) -> None:
        self._leases: dict[bytes, _Lease] = {}
        self._heap: list[tuple[int, int, bytes]] = []
        self._places = itertools.count()
        self._now = 0
        """The tag at which a lease that comes anew begins: that of the last grant's start."""
        self._debts: OrderedDict[bytes, int] = OrderedDict()
        """Tags of leases that have nothing waiting, in the order in which they left."""

    def __bool__(self) -> bool:
        return bool(self._leases)

    def add(self, lease_key: bytes, sequence_id: int, *, is_begun: bool = False) -> None:
        """Behind its lease's other sequences, or before them if its item is begun already."""
        lease = self._leases.get(lease_key)
        if lease is None:
            tag = max(self._debts.pop(lease_key, 0), self._now)
            lease = self._leases[lease_key] = _Lease(tag, next(self._places))
            self._push(lease_key, lease)
        lease.sequences[sequence_id] = None
        if is_begun:
            lease.sequences.move_to_end(sequence_id, last=False)

    def peek(self) -> int | None:
        """The sequence whose turn it is."""
        while self._heap:
            _, place, lease_key = self._heap[0]
            lease = self._leases.get(lease_key)
            if lease is not None and lease.place == place:
                return next(iter(lease.sequences))
            heapq.heappop(self._heap)
        return None

    def pop(self, rows: int) -> None:
        """Take the sequence that `peek` gave out, and charge its lease for the rows it is given."""
        tag, _, lease_key = heapq.heappop(self._heap)
        lease = self._leases[lease_key]
        lease.sequences.popitem(last=False)
        self._now = tag
        lease.tag = tag + rows
        if lease.sequences:
            lease.place = next(self._places)
            self._push(lease_key, lease)
        else:
            self._leave(lease_key, lease.tag)

    def remove(self, lease_key: bytes, sequence_id: int) -> None:
        """Take a sequence out whose turn it need not be; its lease is charged nothing."""
        lease = self._leases[lease_key]
        del lease.sequences[sequence_id]
        if not lease.sequences:
            self._leave(lease_key, lease.tag)

    def _push(self, lease_key: bytes, lease: _Lease) -> None:
        heapq.heappush(self._heap, (lease.tag, lease.place, lease_key))
        if len(self._heap) > 2 * len(self._leases) + DEBTS_MAX:  # void entries of who was removed
            self._heap = [(lease.tag, lease.place, key) for key, lease in self._leases.items()]
            heapq.heapify(self._heap)

    def _leave(self, lease_key: bytes, tag: int) -> None:
        del self._leases[lease_key]
        if tag > self._now:
            self._debts[lease_key] = tag
            self._debts.move_to_end(lease_key)
        if len(self._debts) > DEBTS_MAX:
            self._debts.popitem(last=False)
