"""The scheduler against a simulated engine: a clock of its own, base + slope x rows, and noise."""

import heapq
import random
from dataclasses import dataclass, field

import pytest

from node.engine.base import Output, StepItem
from node.engine.prefill_share import (
    DECODE_STALL_MAX_S,
    DECODE_STALL_MIN_S,
    DECODING_S,
    PREFILL_ALONE_S,
    PREFILL_ROWS_MIN,
)
from node.engine.scheduler import Scheduler, SchedulerLimits
from protocol.limits import STEP_TOKENS_MAX
from protocol.tensor import WireDtype

UNBOUNDED = SchedulerLimits(decode_stall_max_s=float("inf"))
NOISE = 0.1
LEARNING_BATCHES = 20


@dataclass(frozen=True)
class Machine:
    base_s: float
    row_s: float

    @property
    def stall_s(self):
        """What prefill may add to a batch: a step, within bounds, or its least share."""
        stall_s = min(max(self.base_s, DECODE_STALL_MIN_S), DECODE_STALL_MAX_S)
        return max(stall_s, PREFILL_ROWS_MIN * self.row_s)


MACHINES = {
    "gpu": Machine(0.010, 0.00005),
    "cpu": Machine(0.1, 0.0013),
    "large span on a cpu": Machine(0.6, 0.008),
    "rows dear": Machine(0.02, 0.02),
}


@dataclass
class Simulation:
    machine: Machine
    limits: SchedulerLimits = field(default_factory=SchedulerLimits)
    now: float = 0.0
    batches: int = 0

    def __post_init__(self):
        self.scheduler = Scheduler(self.limits)
        self.random = random.Random(0)
        self.arrivals = []
        self.done = []
        """(sequence, rows, queued at, done at, batch) of each item."""
        self.stalls_s = []
        """What prefill added to the batches that had decodes in them."""

    def arrive(self, at, sequence_id, rows):
        heapq.heappush(self.arrivals, (at, sequence_id, rows))

    def run(self, until, on_done=lambda sequence_id, rows: None):
        while self.now < until and (self.arrivals or self.scheduler.queued_items):
            while self.arrivals and self.arrivals[0][0] <= self.now:
                at, sequence_id, rows = heapq.heappop(self.arrivals)
                item = StepItem(sequence_id, 0, rows, 1, Output.TOKENS, WireDtype.FP32)
                self.scheduler.add(item, b"%d" % sequence_id, at)
            batch = self.scheduler.next_batch(self.now)
            if not batch:
                self.now = self.arrivals[0][0]
                continue
            self.run_batch(batch)
            for part in batch:
                if part.is_last:
                    item = part.scheduled.item
                    queued_at = part.scheduled.queued_at
                    self.done.append(
                        (item.sequence_id, item.count, queued_at, self.now, self.batches)
                    )
                    on_done(item.sequence_id, item.count)

    def run_batch(self, batch):
        prefill_rows = sum(part.rows for part in batch if part.scheduled.item.count > 16)
        factor = self.random.uniform(1 - NOISE, 1 + NOISE)
        added_s = self.machine.row_s * prefill_rows
        duration_s = (self.machine.base_s + added_s) * factor
        self.now += duration_s
        self.batches += 1
        self.scheduler.observe(batch, duration_s)
        if prefill_rows < sum(part.rows for part in batch) and self.batches > LEARNING_BATCHES:
            self.stalls_s.append(added_s)


def busy(machine, think_s, decoders=8, seconds=60.0):
    """Decoders that never stop beside prefills that never run out."""
    simulation = Simulation(machine)
    for sequence_id in range(decoders):
        simulation.arrive(0.0, sequence_id, 1 + sequence_id % 3)
    for sequence_id in range(100, 104):
        simulation.arrive(0.0, sequence_id, STEP_TOKENS_MAX)

    def again(sequence_id, rows):
        think = think_s * simulation.random.random() if sequence_id < 100 else 0.0
        rows = rows if sequence_id < 100 else simulation.random.randrange(17, STEP_TOKENS_MAX + 1)
        simulation.arrive(simulation.now + think, sequence_id, rows)

    simulation.run(seconds, again)
    return simulation


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("think_s", [0.0, 0.4])
class TestBusy:
    def test_no_decode_waits_longer_than_two_steps_with_their_share_of_prefill(self, name, think_s):
        machine = MACHINES[name]
        simulation = busy(machine, think_s)
        assert max(simulation.stalls_s) <= 1.5 * machine.stall_s
        mean_s = sum(simulation.stalls_s) / len(simulation.stalls_s)
        assert mean_s <= 1.1 * machine.stall_s
        # the batch in flight when it came, and its own
        bound_s = 2 * (machine.base_s + 1.5 * machine.stall_s) * (1 + NOISE)
        waits = [
            done_at - queued_at
            for sequence_id, _, queued_at, done_at, batch in simulation.done
            if sequence_id < 100 and batch > LEARNING_BATCHES
        ]
        assert len(waits) > 100
        assert max(waits) <= bound_s

    def test_prefill_gets_what_it_may_have_and_every_prompt_moves(self, name, think_s):
        machine = MACHINES[name]
        simulation = busy(machine, think_s)
        prefilled = dict.fromkeys(range(100, 104), 0)
        for sequence_id, rows, *_ in simulation.done:
            if sequence_id in prefilled:
                prefilled[sequence_id] += rows
        # Tiles of 16 rows cost up to half of a share of 16 to 31 rows.
        expected = 60.0 / (machine.base_s + machine.stall_s) * machine.stall_s / machine.row_s
        # `done` counts whole items: up to one of each sequence is under way.
        assert sum(prefilled.values()) >= 0.5 * expected - 4 * STEP_TOKENS_MAX
        assert max(prefilled.values()) - min(prefilled.values()) <= 3 * STEP_TOKENS_MAX


class TestThroughput:
    @pytest.mark.parametrize("name", MACHINES)
    @pytest.mark.parametrize(("steps", "chunks"), [(300, 8), (40, 20)])
    def test_the_same_work_takes_about_as_long_as_without_a_bound(self, name, steps, chunks):
        spent = []
        for limits in (SchedulerLimits(), UNBOUNDED):
            simulation = Simulation(MACHINES[name], limits)
            left = dict.fromkeys(range(8), steps)
            for sequence_id in left:
                simulation.arrive(0.0, sequence_id, 1)
            for chunk in range(chunks):
                simulation.arrive(0.0, 100 + chunk, STEP_TOKENS_MAX)

            def again(sequence_id, rows, simulation=simulation, left=left):
                if sequence_id in left:
                    left[sequence_id] -= 1
                    if left[sequence_id]:
                        simulation.arrive(simulation.now, sequence_id, rows)

            simulation.run(float("inf"), again)
            spent.append(simulation.now)
        # After the last decode another is expected for a while. Where a step is slow, batches of
        # prefill alone are bounded too, and four fifths of them is its rows.
        assert spent[0] <= 1.2 * spent[1] + DECODING_S


class TestRandomArrivals:
    @pytest.mark.parametrize("seed", range(5))
    def test_everything_runs_within_a_bounded_time(self, seed):
        machine = MACHINES["cpu"]
        simulation = Simulation(machine)
        simulation.random.seed(seed)
        at, rows_of_kind = 0.0, [0, 0]
        for _ in range(400):
            at += simulation.random.expovariate(8.0)
            is_long = simulation.random.random() < 0.15
            rows = simulation.random.randrange(17, 513) if is_long else 1
            rows_of_kind[is_long] += rows
            simulation.arrive(at, 100 * is_long + simulation.random.randrange(30), rows)
        simulation.run(float("inf"))
        assert len(simulation.done) == 400
        # A step after a pause may find a batch of prefill alone before it, and then its own.
        bound_s = (2 * machine.base_s + PREFILL_ALONE_S + machine.stall_s) * (1 + NOISE)
        waits = [done - queued for _, rows, queued, done, _ in simulation.done if rows == 1]
        assert max(waits) <= bound_s
        chunks = [done - queued for _, rows, queued, done, _ in simulation.done if rows > 1]
        backlog_s = machine.base_s * simulation.batches + machine.row_s * rows_of_kind[1]
        assert max(chunks) <= backlog_s * (1 + NOISE)
