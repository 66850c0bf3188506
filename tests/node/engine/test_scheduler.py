from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.engine.base import Output, StepItem
from node.engine.errors import QueueFull
from node.engine.scheduler import Scheduler, SchedulerLimits
from protocol.errors import LocalProtocolError
from protocol.limits import STEP_TOKENS_MAX
from protocol.tensor import WireDtype

LIMITS = SchedulerLimits(batch_rows_max=600, prefill_rows_per_batch=100)
PREFILL_WAIT_MAX = -(-STEP_TOKENS_MAX // LIMITS.prefill_rows_per_batch)
"""Batches until the longest chunk has earned its rows."""


def step(sequence_id, count=1):
    return StepItem(sequence_id, 0, count, 1, Output.TOKENS, WireDtype.FP32)


def add(scheduler, sequence_id, count=1, lease=b""):
    return scheduler.add(step(sequence_id, count), lease, 0.0)


def sequences(batch):
    return [scheduled.item.sequence_id for scheduled in batch]


arrivals = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.one_of(st.integers(1, 17), st.integers(1, STEP_TOKENS_MAX)),
        st.sampled_from([b"a", b"b", b"c"]),
        st.booleans(),
    ),
    max_size=60,
)


class TestProperties:
    @given(arrivals)
    def test_limits_hold_and_everything_runs_once_in_order(self, work):
        scheduler = Scheduler(LIMITS)
        expected, ran = defaultdict(list), defaultdict(list)
        pending = 0

        def run_one():
            batch = scheduler.next_batch()
            assert bool(batch) == bool(pending)
            assert sum(scheduled.item.count for scheduled in batch) <= LIMITS.batch_rows_max
            assert len(set(sequences(batch))) == len(batch)
            for scheduled in batch:
                ran[scheduled.item.sequence_id].append(scheduled.ticket)
            return len(batch)

        for sequence_id, count, lease, then_run in work:
            try:
                ticket = add(scheduler, sequence_id, count, lease).ticket
            except QueueFull:
                continue
            expected[sequence_id].append(ticket)
            pending += 1
            if then_run:
                pending -= run_one()
        while pending:
            pending -= run_one()
        assert ran == expected
        assert scheduler.next_batch() == []
        assert (scheduler.queued_items, scheduler.queued_rows) == (0, 0)
        assert not scheduler._lease_rows

    @given(
        chunks=st.lists(st.integers(17, STEP_TOKENS_MAX), min_size=1, max_size=6),
        decoders=st.integers(1, 100),
    )
    @settings(max_examples=30)
    def test_neither_kind_starves_while_the_other_never_ends(self, chunks, decoders):
        scheduler = Scheduler(LIMITS)
        for index, count in enumerate(chunks):
            add(scheduler, 1000 + index, count)
        waiting = set()
        since_prefill = 0
        missed = defaultdict(int)
        while len(chunks) > 0:
            for sequence_id in set(range(decoders)) - waiting:
                add(scheduler, sequence_id)
                waiting.add(sequence_id)
            batch = set(sequences(scheduler.next_batch()))
            for sequence_id in waiting - batch:
                missed[sequence_id] += 1
                assert missed[sequence_id] <= 1
            for sequence_id in waiting & batch:
                missed[sequence_id] = 0
            prefilled = batch - waiting
            waiting -= batch
            chunks = chunks[len(prefilled) :]
            since_prefill = 0 if prefilled else since_prefill + 1
            assert since_prefill <= PREFILL_WAIT_MAX

    @given(arrivals, st.integers(0, 12))
    def test_discard_takes_that_sequence_and_no_other(self, work, gone):
        scheduler = Scheduler(LIMITS)
        kept, discarded = [], []
        for sequence_id, count, lease, _ in work:
            try:
                ticket = add(scheduler, sequence_id, count, lease).ticket
            except QueueFull:
                continue
            (discarded if sequence_id == gone else kept).append(ticket)
        assert [scheduled.ticket for scheduled in scheduler.discard(gone)] == discarded
        assert scheduler.discard(gone) == []
        ran = []
        while batch := scheduler.next_batch():
            ran += [scheduled.ticket for scheduled in batch]
        assert sorted(ran) == kept


class TestOrder:
    def test_decodes_come_before_a_chunk_until_it_has_earned_its_rows(self):
        scheduler = Scheduler(LIMITS)
        add(scheduler, 1, 250)
        batches = []
        for _ in range(3):
            add(scheduler, 2)
            batches.append(sequences(scheduler.next_batch()))
        assert batches == [[2], [2], [1, 2]]

    def test_a_chunk_alone_does_not_wait(self):
        scheduler = Scheduler(LIMITS)
        add(scheduler, 1, STEP_TOKENS_MAX)
        assert sequences(scheduler.next_batch()) == [1]

    def test_a_verify_goes_with_the_decodes(self):
        scheduler = Scheduler(LIMITS)
        add(scheduler, 1, LIMITS.short_rows_max)
        add(scheduler, 2, 1)
        assert sequences(scheduler.next_batch()) == [1, 2]

    def test_a_lease_with_many_sequences_gets_one_turn_in_two(self):
        scheduler = Scheduler(LIMITS)
        for sequence_id in range(100):
            add(scheduler, sequence_id, 16, b"many")
        for sequence_id in range(100, 110):
            add(scheduler, sequence_id, 16, b"few")
        batch = sequences(scheduler.next_batch())
        assert sum(sequence_id >= 100 for sequence_id in batch) == 10
        assert batch[:4] == [0, 100, 1, 101]

    def test_one_item_a_sequence_and_the_next_one_in_the_next_batch(self):
        scheduler = Scheduler(LIMITS)
        tickets = [add(scheduler, 1).ticket for _ in range(3)]
        for ticket in tickets:
            (scheduled,) = scheduler.next_batch()
            assert scheduled.ticket == ticket


class TestLimits:
    def test_items_rows_and_a_leases_rows_are_bounded(self):
        scheduler = Scheduler(SchedulerLimits(queue_items_max=3))
        for sequence_id in range(3):
            add(scheduler, sequence_id)
        with pytest.raises(QueueFull, match="3 steps"):
            add(scheduler, 3)

        scheduler = Scheduler(SchedulerLimits(queue_rows_max=600))
        add(scheduler, 0, 512)
        with pytest.raises(QueueFull, match="512 rows"):
            add(scheduler, 1, 100)

        scheduler = Scheduler(SchedulerLimits(lease_rows_max=600))
        add(scheduler, 0, 512, b"a")
        add(scheduler, 1, 512, b"b")
        with pytest.raises(QueueFull, match="lease"):
            add(scheduler, 2, 100, b"a")
        scheduler.discard(0)
        add(scheduler, 2, 100, b"a")

    def test_settings_under_which_a_step_could_never_run_are_refused(self):
        with pytest.raises(LocalProtocolError):
            SchedulerLimits(batch_rows_max=STEP_TOKENS_MAX)
        with pytest.raises(LocalProtocolError):
            add(Scheduler(), 1, STEP_TOKENS_MAX + 1)
