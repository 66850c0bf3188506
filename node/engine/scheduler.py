"""What the engine runs next: a pure queue policy over steps of many sequences.

Steps of few rows (decodes, verifies) go before long ones (prefill chunks): one chunk costs every
other session its turn. Prefill earns rows of credit with each batch it waits, and runs when its
credit covers it; so both kinds always move, at a bounded ratio. Within a kind, leases take turns,
and within a lease its sequences do; within a sequence the order is that of arrival.

No I/O, no clock and no arrays here: `now` is an argument, and items are only counted.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass

from node.engine.base import StepItem
from node.engine.channel import BATCH_ROWS_MAX
from node.engine.errors import QueueFull
from protocol.errors import LocalProtocolError
from protocol.limits import STEP_TOKENS_MAX

__all__ = ["Scheduled", "Scheduler", "SchedulerLimits"]


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """The scheduler's bounds. Rows are tokens of one sequence in one step."""

    batch_rows_max: int = BATCH_ROWS_MAX
    """Of one batch; what the engine's shared memory is sized for."""

    short_rows_max: int = 16
    """An item of up to this many rows goes with the decodes: on a CPU 16 rows cost 1.14 of one."""

    prefill_rows_per_batch: int = 256
    """Credit prefill earns a batch while short items wait too: a chunk's usual size."""

    queue_items_max: int = 1024
    """Waiting in all; about what a thousand sessions of one step each would bring."""

    queue_rows_max: int = 32_768
    """Waiting in all: 512 MiB of fp32 activations at hidden size 4096. Sessions that keep to
    their capacity have no more rows waiting than the KV budget, so only a flood meets this."""

    lease_rows_max: int = 16_384
    """Waiting of one lease, so that a flood from one leaves room for the others."""

    def __post_init__(self) -> None:
        # Otherwise the longest legal step could never run beside a short one.
        if self.batch_rows_max < STEP_TOKENS_MAX + self.short_rows_max:
            raise LocalProtocolError("A batch must hold the longest step and a short one.")
        if self.prefill_rows_per_batch < 1 or self.short_rows_max < 1:
            raise LocalProtocolError("Both kinds of step need a share.")


@dataclass(frozen=True, slots=True)
class Scheduled:
    """An item in the queue. `ticket` is its number in order of arrival, never used twice."""

    ticket: int
    item: StepItem
    lease_key: bytes
    queued_at: float


class Scheduler:
    """The queue of one engine. Owned by its runner."""

    def __init__(self, limits: SchedulerLimits | None = None) -> None:
        self.limits = limits or SchedulerLimits()
        self._sequences: dict[int, deque[Scheduled]] = {}
        self._short = _Turns()
        self._prefill = _Turns()
        self._lease_rows: dict[bytes, int] = {}
        self._credit_rows = 0
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
        self._count(scheduled, 1)
        if len(queue) == 1:
            self._turns_of(scheduled).add(lease_key, item.sequence_id)
        return scheduled

    def next_batch(self) -> list[Scheduled]:
        """Take the next batch out of the queue: at most one item a sequence, rows within limits.

        Call it when the batch before has run: the next item of a sequence is then ready. Empty
        only if nothing waits.
        """
        rows_max = self.limits.batch_rows_max
        if self._prefill and self._short:
            # Prefill is chosen first but within its credit and half the batch, so that neither
            # kind can take all of what the other waits for.
            self._credit_rows += self.limits.prefill_rows_per_batch
            prefill_max = min(self._credit_rows, max(rows_max // 2, STEP_TOKENS_MAX))
        else:  # alone, prefill needs no credit; and credit is not saved up
            self._credit_rows = 0
            prefill_max = rows_max
        batch = self._take(self._prefill, prefill_max)
        rows = sum(scheduled.item.count for scheduled in batch)
        self._credit_rows = max(self._credit_rows - rows, 0)
        batch += self._take(self._short, rows_max - rows)
        for scheduled in batch:
            self._advance(scheduled)
        return batch

    def discard(self, sequence_id: int) -> list[Scheduled]:
        """Take every waiting item of a sequence out of the queue, in order of arrival."""
        queue = self._sequences.pop(sequence_id, None)
        if not queue:
            return []
        self._turns_of(queue[0]).remove(queue[0].lease_key, sequence_id)
        for scheduled in queue:
            self._count(scheduled, -1)
        return list(queue)

    def discard_all(self) -> list[Scheduled]:
        """Empty the queue."""
        return [taken for sequence_id in [*self._sequences] for taken in self.discard(sequence_id)]

    def _take(self, turns: "_Turns", rows_max: int) -> list[Scheduled]:
        """First items of the sequences whose turn it is, until one does not fit.

        Stopping there, rather than looking for a smaller one, keeps the large from starving.
        """
        taken: list[Scheduled] = []
        while (sequence_id := turns.peek()) is not None:
            scheduled = self._sequences[sequence_id][0]
            if scheduled.item.count > rows_max:
                break
            rows_max -= scheduled.item.count
            turns.pop()
            taken.append(scheduled)
        return taken

    def _advance(self, scheduled: Scheduled) -> None:
        """Drop a taken item and give its sequence's next one its place in the turns."""
        sequence_id = scheduled.item.sequence_id
        queue = self._sequences[sequence_id]
        queue.popleft()
        self._count(scheduled, -1)
        if queue:
            self._turns_of(queue[0]).add(queue[0].lease_key, sequence_id)
        else:
            del self._sequences[sequence_id]

    def _turns_of(self, scheduled: Scheduled) -> "_Turns":
        is_short = scheduled.item.count <= self.limits.short_rows_max
        return self._short if is_short else self._prefill

    def _count(self, scheduled: Scheduled, sign: int) -> None:
        rows = sign * scheduled.item.count
        self._items += sign
        self._rows += rows
        left = self._lease_rows.get(scheduled.lease_key, 0) + rows
        if left:
            self._lease_rows[scheduled.lease_key] = left
        else:
            del self._lease_rows[scheduled.lease_key]


class _Turns:
    """Sequences in round-robin order: leases take turns, and within a lease its sequences."""

    def __init__(self) -> None:
        self._leases: OrderedDict[bytes, OrderedDict[int, None]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._leases)

    def add(self, lease_key: bytes, sequence_id: int) -> None:
        """At the end of its lease's sequences; a new lease at the end of the leases."""
        self._leases.setdefault(lease_key, OrderedDict())[sequence_id] = None

    def peek(self) -> int | None:
        """The sequence whose turn it is."""
        for sequences in self._leases.values():
            return next(iter(sequences))
        return None

    def pop(self) -> None:
        """Take that sequence out, and send its lease to the end."""
        lease_key = next(iter(self._leases))
        sequences = self._leases[lease_key]
        sequences.popitem(last=False)
        if sequences:
            self._leases.move_to_end(lease_key)
        else:
            del self._leases[lease_key]

    def remove(self, lease_key: bytes, sequence_id: int) -> None:
        sequences = self._leases[lease_key]
        del sequences[sequence_id]
        if not sequences:
            del self._leases[lease_key]
