"""What the engine runs next: a pure queue policy over steps of many sequences.

Steps of few rows (decodes, verifies) run in the next batch. Long ones (prefill chunks) are handed
out in parts: while somebody decodes, so many rows that a batch takes about one decode step longer
(how many that are is learned from the batches' durations); while nobody does, whole. Within a
kind, leases take turns and are given equal rows, and within a lease its sequences take turns;
within a sequence the order is that of arrival.

No I/O, no clock and no arrays here: `now` and durations are arguments, and rows are only counted.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from node.engine.base import StepItem
from node.engine.channel import BATCH_ROWS_MAX
from node.engine.errors import QueueFull
from node.engine.prefill_share import DECODE_STALL_MAX_S, PREFILL_ROWS_MIN, PrefillShare
from node.engine.turns import Turns
from protocol.errors import LocalProtocolError
from protocol.limits import STEP_TOKENS_MAX

__all__ = ["Part", "Scheduled", "Scheduler", "SchedulerLimits"]


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """The scheduler's bounds. Rows are tokens of one sequence in one step."""

    batch_rows_max: int = BATCH_ROWS_MAX
    """Of one batch; what the engine's shared memory is sized for."""

    short_rows_max: int = 16
    """An item of up to this many rows goes with the decodes: on a CPU 16 rows cost 1.14 of one."""

    queue_items_max: int = 1024
    """Waiting in all; about what a thousand sessions of one step each would bring."""

    queue_rows_max: int = 32_768
    """Waiting in all: 512 MiB of fp32 activations at hidden size 4096. Sessions that keep to
    their capacity have no more rows waiting than the KV budget, so only a flood meets this."""

    lease_rows_max: int = 16_384
    """Waiting of one lease, so that a flood from one leaves room for the others."""

    decode_stall_max_s: float = DECODE_STALL_MAX_S
    """What prefill may add to a decode step, see PrefillShare."""

    def __post_init__(self) -> None:
        # Otherwise a whole prefill step would leave the short ones no room beside it.
        if self.batch_rows_max < STEP_TOKENS_MAX + self.short_rows_max:
            raise LocalProtocolError("A batch must hold the longest step and a short one.")
        if self.short_rows_max < 1 or not self.decode_stall_max_s > 0:
            raise LocalProtocolError("Both kinds of step need a share.")


@dataclass(frozen=True, slots=True)
class Scheduled:
    """An item in the queue. `ticket` is its number in order of arrival, never used twice."""

    ticket: int
    item: StepItem
    lease_key: bytes
    queued_at: float


class Part(NamedTuple):  # one for every item of every batch: a tuple is quickly made
    """Rows [first_row, first_row + rows) of an item: what one batch runs, or what is left."""

    scheduled: Scheduled
    first_row: int
    rows: int

    @property
    def is_last(self) -> bool:
        return self.first_row + self.rows == self.scheduled.item.count


class Scheduler:
    """The queue of one engine. Owned by its runner."""

    def __init__(self, limits: SchedulerLimits | None = None) -> None:
        self.limits = limits or SchedulerLimits()
        self._share = PrefillShare(self.limits.decode_stall_max_s)
        self._sequences: dict[int, deque[Scheduled]] = {}
        self._begun: dict[int, int] = {}
        """Rows handed out already of a sequence's first item; only where there are any."""
        self._short = Turns()
        self._prefill = Turns()
        self._lease_rows: dict[bytes, int] = {}
        self._tickets = 0
        self._items = 0
        self._rows = 0

    @property
    def queued_items(self) -> int:
        return self._items

    @property
    def queued_rows(self) -> int:
        return self._rows

    def add(self, item: StepItem, lease_key: bytes, now: float) -> Scheduled:
        """Queue an item behind its sequence's others; raises QueueFull and then keeps nothing."""
        limits = self.limits
        if not 0 < item.count <= STEP_TOKENS_MAX:
            raise LocalProtocolError(f"A step of {item.count} rows cannot be scheduled.")
        if self._items >= limits.queue_items_max:
            raise QueueFull(f"{self._items} steps wait for the engine already.")
        if self._rows + item.count > limits.queue_rows_max:
            raise QueueFull(f"{self._rows} rows wait for the engine already.")
        if self._lease_rows.get(lease_key, 0) + item.count > limits.lease_rows_max:
            raise QueueFull(f"This lease may have {limits.lease_rows_max} rows waiting.")
        scheduled = Scheduled(self._tickets, item, lease_key, now)
        self._tickets += 1
        queue = self._sequences.setdefault(item.sequence_id, deque())
        queue.append(scheduled)
        self._items += 1
        self._count(scheduled, item.count)
        if len(queue) == 1:
            self._turns_of(scheduled).add(lease_key, item.sequence_id)
        if item.count > limits.short_rows_max:
            self._share.forget(item.sequence_id)
        return scheduled

    def next_batch(self, now: float) -> list[Part]:
        """Take the next batch out of the queue: at most one part a sequence, rows within limits.

        Call it when the batch before has run: what follows in a sequence is then ready. Empty
        only if nothing waits.
        """
        batch: list[Part] = []
        rows_left = self.limits.batch_rows_max
        if self._prefill:
            share = self._share.rows_max(
                now, short_waits=bool(self._short), batch_rows_max=rows_left
            )
            batch = self._take_prefill(share)
            rows_left -= sum(part.rows for part in batch)
        if self._short:
            short = self._take_short(rows_left)
            self._share.note_short([part.scheduled.item.sequence_id for part in short], now)
            batch += short
        for part in batch:
            self._advance(part)
        return batch

    def observe(self, batch: Sequence[Part], duration_s: float) -> None:
        """Learn from a batch that ran how long it took."""
        short_max = self.limits.short_rows_max
        rows = sum(part.rows for part in batch if part.scheduled.item.count > short_max)
        self._share.note_batch(rows, duration_s)

    def abandon(self, scheduled: Scheduled) -> None:
        """Take out what is left of an item whose first part was handed out, if anything is."""
        sequence_id = scheduled.item.sequence_id
        queue = self._sequences.get(sequence_id)
        if queue and queue[0] is scheduled:
            self._turns_of(scheduled).remove(scheduled.lease_key, sequence_id)
            self._drop_first(sequence_id)

    def discard(self, sequence_id: int) -> list[Part]:
        """Take all that a sequence has waiting out of the queue, in order of arrival.

        The first is one that began, and runs its first rows or did, if its `first_row` is not 0.
        """
        queue = self._sequences.get(sequence_id)
        if not queue:
            return []
        self._turns_of(queue[0]).remove(queue[0].lease_key, sequence_id)
        del self._sequences[sequence_id]
        first_row = self._begun.pop(sequence_id, 0)
        parts = []
        for scheduled in queue:
            parts.append(Part(scheduled, first_row, scheduled.item.count - first_row))
            self._items -= 1
            self._count(scheduled, first_row - scheduled.item.count)
            first_row = 0
        return parts

    def discard_all(self) -> list[Part]:
        """Empty the queue."""
        return [part for sequence_id in [*self._sequences] for part in self.discard(sequence_id)]

    def forget(self, sequence_id: int) -> None:
        """The sequence is closed: no further step of it is to be expected."""
        self._share.forget(sequence_id)

    def _take_prefill(self, rows_max: int) -> list[Part]:
        """Parts of the first items whose turn it is; the last of them is cut to fit."""
        taken: list[Part] = []
        while rows_max and (sequence_id := self._prefill.peek()) is not None:
            scheduled = self._sequences[sequence_id][0]
            first_row = self._begun.get(sequence_id, 0)
            rows = min(scheduled.item.count - first_row, rows_max)
            part = Part(scheduled, first_row, rows)
            if taken and rows < PREFILL_ROWS_MIN and not part.is_last:
                break  # a scrap is not worth its place; the next batch begins with this one
            rows_max -= rows
            self._prefill.pop(rows)
            taken.append(part)
        return taken

    def _take_short(self, rows_max: int) -> list[Part]:
        """First items of the sequences whose turn it is, until one does not fit.

        Stopping there, rather than looking for a smaller one, keeps the large from starving.
        """
        taken: list[Part] = []
        while (sequence_id := self._short.peek()) is not None:
            scheduled = self._sequences[sequence_id][0]
            rows = scheduled.item.count
            if rows > rows_max:
                break
            rows_max -= rows
            self._short.pop(rows)
            taken.append(Part(scheduled, 0, rows))
        return taken

    def _advance(self, part: Part) -> None:
        """Drop the rows taken and give the sequence's next ones their place in the turns."""
        sequence_id = part.scheduled.item.sequence_id
        if part.is_last:
            self._drop_first(sequence_id)
            return
        self._begun[sequence_id] = part.first_row + part.rows
        self._count(part.scheduled, -part.rows)
        # What is begun is finished first: of two halves of two prompts nobody has a first token.
        self._prefill.add(part.scheduled.lease_key, sequence_id, is_begun=True)

    def _drop_first(self, sequence_id: int) -> None:
        """Forget a sequence's first item, which stands in no turns, and let the next one wait."""
        queue = self._sequences[sequence_id]
        scheduled = queue.popleft()
        self._items -= 1
        self._count(scheduled, self._begun.pop(sequence_id, 0) - scheduled.item.count)
        if queue:
            self._turns_of(queue[0]).add(queue[0].lease_key, sequence_id)
        else:
            del self._sequences[sequence_id]

    def _turns_of(self, scheduled: Scheduled) -> Turns:
        is_short = scheduled.item.count <= self.limits.short_rows_max
        return self._short if is_short else self._prefill

    def _count(self, scheduled: Scheduled, rows: int) -> None:
        self._rows += rows
        left = self._lease_rows.get(scheduled.lease_key, 0) + rows
        if left:
            self._lease_rows[scheduled.lease_key] = left
        else:
            del self._lease_rows[scheduled.lease_key]
