from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.engine.base import Output, StepItem
from node.engine.errors import QueueFull
from node.engine.prefill_share import DECODING_S, PREFILL_ROWS_FIRST, PREFILL_ROWS_MIN
from node.engine.scheduler import Scheduler, SchedulerLimits
from protocol.errors import LocalProtocolError
from protocol.limits import STEP_TOKENS_MAX
from protocol.tensor import WireDtype

LIMITS = SchedulerLimits(batch_rows_max=600)


def step(sequence_id, count=1):
    return StepItem(sequence_id, 0, count, 1, Output.TOKENS, WireDtype.FP32)


def add(scheduler, sequence_id, count=1, lease=b""):
    return scheduler.add(step(sequence_id, count), lease, 0.0)


def sequences(batch):
    return [part.scheduled.item.sequence_id for part in batch]


def rows(batch):
    return [part.rows for part in batch]


arrivals = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.one_of(st.integers(1, 17), st.integers(1, STEP_TOKENS_MAX)),
        st.sampled_from([b"a", b"b", b"c"]),
        st.booleans(),
        st.sampled_from([0.001, 0.1, 3.0]),
    ),
    max_size=60,
)


class TestProperties:
    @given(arrivals)
    def test_limits_hold_and_parts_tile_every_item_once_and_in_order(self, work):
        scheduler = Scheduler(LIMITS)
        expected, ran = defaultdict(list), defaultdict(list)
        queued_rows, now = 0, 0.0

        def run_one(duration_s):
            nonlocal now
            batch = scheduler.next_batch(now)
            assert bool(batch) == bool(queued_rows)
            assert sum(rows(batch)) <= LIMITS.batch_rows_max
            assert len(set(sequences(batch))) == len(batch)
            for part in batch:
                assert part.rows > 0
                ran[part.scheduled.item.sequence_id].append(
                    (part.scheduled.ticket, part.first_row, part.rows)
                )
            now += duration_s
            scheduler.observe(batch, duration_s)
            return sum(rows(batch))

        for sequence_id, count, lease, then_run, duration_s in work:
            try:
                ticket = add(scheduler, sequence_id, count, lease).ticket
            except QueueFull:
                continue
            expected[sequence_id].append((ticket, count))
            queued_rows += count
            if then_run:
                queued_rows -= run_one(duration_s)
            assert scheduler.queued_rows == queued_rows
        while queued_rows:
            queued_rows -= run_one(0.1)
        assert {key: tiled(parts) for key, parts in ran.items()} == expected
        assert scheduler.next_batch(now) == []
        assert (scheduler.queued_items, scheduler.queued_rows) == (0, 0)
        assert not scheduler._lease_rows
        assert not scheduler._begun

    @given(arrivals, st.integers(0, 12))
    def test_discard_takes_what_is_left_of_that_sequence_and_no_other(self, work, gone):
        scheduler = Scheduler(LIMITS)
        given_rows, ran_rows = defaultdict(int), defaultdict(int)
        for sequence_id, count, lease, then_run, _ in work:
            try:
                given_rows[add(scheduler, sequence_id, count, lease).ticket] = count
            except QueueFull:
                continue
            for part in scheduler.next_batch(0.0) if then_run else ():
                ran_rows[part.scheduled.ticket] += part.rows
        left = scheduler.discard(gone)
        assert [part.first_row for part in left[1:]] == [0] * len(left[1:])
        for part in left:
            assert part.scheduled.item.sequence_id == gone
            assert part.first_row == ran_rows[part.scheduled.ticket]
            ran_rows[part.scheduled.ticket] += part.rows
        assert scheduler.discard(gone) == []
        while batch := scheduler.next_batch(0.0):
            assert gone not in sequences(batch)
            for part in batch:
                ran_rows[part.scheduled.ticket] += part.rows
        assert ran_rows == given_rows

    @given(st.integers(1, 4), st.integers(1, 100))
    @settings(max_examples=20)
    def test_neither_kind_starves_while_the_other_never_ends(self, chunks, decoders):
        scheduler = Scheduler(LIMITS)
        for index in range(chunks):
            add(scheduler, 1000 + index, STEP_TOKENS_MAX)
        left = chunks * STEP_TOKENS_MAX
        while left:
            for sequence_id in set(range(decoders)) - set(scheduler._sequences):
                add(scheduler, sequence_id)
            batch = scheduler.next_batch(0.0)
            scheduler.observe(batch, 60.0)  # far too slow for any prefill at all
            assert set(sequences(batch)) >= set(range(decoders))
            prefilled = sum(part.rows for part in batch if part.scheduled.item.count > 1)
            assert prefilled >= min(PREFILL_ROWS_MIN, left)
            left -= prefilled


def tiled(parts):
    """The (ticket, rows) of items whose parts follow one another without gap or overlap."""
    items = []
    for ticket, first_row, count in parts:
        if first_row == 0:
            items.append((ticket, count))
        else:
            assert items[-1] == (ticket, first_row)
            items[-1] = (ticket, first_row + count)
    return items


class TestOrder:
    def test_beside_decodes_a_chunk_runs_in_parts_and_what_is_begun_is_finished_first(self):
        scheduler = Scheduler(LIMITS)
        add(scheduler, 1, 100, b"a")
        add(scheduler, 2, 100, b"a")
        batches = []
        for _ in range(4):
            add(scheduler, 3)
            batch = scheduler.next_batch(0.0)
            batches.append(list(zip(sequences(batch), rows(batch), strict=True)))
        first, rest = PREFILL_ROWS_FIRST, 100 - PREFILL_ROWS_FIRST
        assert batches == [
            [(1, first), (3, 1)],
            [(1, rest), (2, first - rest), (3, 1)],
            [(2, first), (3, 1)],
            [(2, 2 * rest - first), (3, 1)],
        ]

    def test_a_chunk_alone_runs_whole(self):
        scheduler = Scheduler(LIMITS)
        add(scheduler, 1, STEP_TOKENS_MAX)
        assert rows(scheduler.next_batch(0.0)) == [STEP_TOKENS_MAX]

    def test_a_decode_that_will_be_back_is_waited_for_but_not_for_ever(self):
        scheduler = Scheduler(LIMITS)
        for at, expected in (
            (0.5 * DECODING_S, PREFILL_ROWS_FIRST),
            (1.5 * DECODING_S, STEP_TOKENS_MAX),
        ):
            add(scheduler, 1)
            scheduler.next_batch(0.0)
            add(scheduler, 2, STEP_TOKENS_MAX)
            assert rows(scheduler.next_batch(at)) == [expected]
            scheduler.discard(2)

    @pytest.mark.parametrize("how", ["closes", "prefills"])
    def test_nobody_waits_for_a_decode_of_a_sequence_that(self, how):
        scheduler = Scheduler(LIMITS)
        add(scheduler, 1)
        scheduler.next_batch(0.0)
        if how == "closes":
            scheduler.forget(1)
        add(scheduler, 1 if how == "prefills" else 2, STEP_TOKENS_MAX)
        assert rows(scheduler.next_batch(0.0)) == [STEP_TOKENS_MAX]

    def test_a_verify_goes_with_the_decodes(self):
        scheduler = Scheduler(LIMITS)
        add(scheduler, 1, LIMITS.short_rows_max)
        add(scheduler, 2, 1)
        assert sequences(scheduler.next_batch(0.0)) == [1, 2]

    def test_a_lease_with_many_sequences_gets_one_turn_in_two(self):
        scheduler = Scheduler(LIMITS)
        for sequence_id in range(100):
            add(scheduler, sequence_id, 16, b"many")
        for sequence_id in range(100, 110):
            add(scheduler, sequence_id, 16, b"few")
        batch = sequences(scheduler.next_batch(0.0))
        assert sum(sequence_id >= 100 for sequence_id in batch) == 10
        assert batch[:4] == [0, 100, 1, 101]

    def test_one_item_a_sequence_and_the_next_one_in_the_next_batch(self):
        scheduler = Scheduler(LIMITS)
        tickets = [add(scheduler, 1).ticket for _ in range(3)]
        for ticket in tickets:
            (part,) = scheduler.next_batch(0.0)
            assert part.scheduled.ticket == ticket


class TestAbandon:
    def test_takes_out_the_rest_of_an_item_and_lets_the_next_one_wait(self):
        scheduler = Scheduler(LIMITS)
        begun = add(scheduler, 1, 200)
        after = add(scheduler, 1, 3)
        add(scheduler, 2)
        assert rows(scheduler.next_batch(0.0)) == [PREFILL_ROWS_FIRST, 1]
        scheduler.abandon(begun)
        assert (scheduler.queued_items, scheduler.queued_rows) == (1, 3)
        (part,) = scheduler.next_batch(0.0)
        assert part.scheduled is after
        scheduler.abandon(after)
        assert scheduler.next_batch(0.0) == []


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
            SchedulerLimits(decode_stall_max_s=0)
        with pytest.raises(LocalProtocolError):
            add(Scheduler(), 1, STEP_TOKENS_MAX + 1)
