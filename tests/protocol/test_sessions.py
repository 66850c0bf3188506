"""Head and hops against each other, with the network reduced to calls in between."""

import dataclasses
import itertools
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import HopFailed, LocalProtocolError, RemoteProtocolError, SessionError
from protocol.frame import LOOP_MAX, Close, Meter, Result, StepKind, Truncate
from protocol.limits import PREFIX_BLOCK_TOKENS
from protocol.money import Work
from protocol.route import Span
from protocol.session import STEPS_IN_FLIGHT_MAX, SessionState
from protocol.tensor import WireDtype
from tests.protocol.alone import HIDDEN, SESSION, THREE
from tests.protocol.ring import Ring


def test_work_metered_by_hops_is_what_the_head_computes():
    ring = Ring(THREE, window=4, credit=8)
    ring.step(StepKind.PREFILL, 6, 1)
    ring.deliver_meters()
    due = ring.head.payable()
    assert [index for index, _ in due] == [0, 1, 2]
    assert due[0][1].work == Work(prefill_token_layers=18, bytes_in=96, bytes_out=96)
    assert due[2][1].work == Work(prefill_token_layers=18, bytes_in=96, bytes_out=16)
    assert due[0][1].link_out_hash == due[1][1].link_in_hash


def test_open_route_counts_token_ids_at_both_ends():
    ring = Ring(THREE, sealed=False, window=1, credit=8)
    ring.step()
    ring.deliver_meters()
    work = [meter.work for _, meter in ring.head.payable()]
    assert (work[0].bytes_in, work[0].bytes_out) == (4, 16)
    assert (work[2].bytes_in, work[2].bytes_out) == (16, 4)


def test_final_meters_cover_only_results_that_arrived():
    ring = Ring(THREE, window=64, credit=64)
    ring.step(StepKind.PREFILL, 5, 1)
    ring.carry(ring.send(StepKind.DECODE, 1, 1))  # its result is lost on the way to the head
    ring.close(cancelled=True)
    due = ring.head.payable()
    assert {meter.steps for _, meter in due} == {1}
    assert {meter.tokens for _, meter in due} == {5}
    assert all(meter.final for _, meter in due)


def test_a_window_meter_that_comes_after_close_does_not_hold_up_the_final_ones():
    ring = Ring(THREE, window=1, credit=64)
    ring.step()
    late = ring.meters.popleft()
    ring.meters.clear()
    ring.meters.append(late)
    ring.close()
    assert [meter.final for _, meter in ring.head.payable()] == [True] * 3


def test_hops_that_are_gone_do_not_cost_the_others_their_pay():
    ring = Ring(THREE, window=64, credit=64)
    ring.step(StepKind.PREFILL, 5, 1)
    close = ring.head.close(cancelled=True)
    for index in (0, 2):
        ring.head.accept_meter(index, ring.hops[index].accept_close(close))
    assert ring.head.payable() == []
    assert [index for index, _ in ring.head.payable(gone={1})] == [0, 2]


@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (1, {"work": Work(99, 0, 96, 96)}, "other work"),
        (1, {"tokens": 7}, "other work"),
        (1, {"link_in_hash": b"x" * 32}, "incoming link"),
        (0, {"link_out_hash": b"x" * 32}, "incoming link"),
        (2, {"link_out_hash": b"x" * 32}, "another output"),
        (0, {"link_in_hash": b"x" * 32}, "incoming link"),
    ],
)
def test_a_dishonest_meter_is_not_paid(index, change, message):
    ring = Ring(THREE, window=4, credit=8)
    ring.step(StepKind.PREFILL, 6, 1)
    ring.meters = deque(
        (i, dataclasses.replace(meter, **change) if i == index else meter)
        for i, meter in ring.meters
    )
    ring.deliver_meters()
    with pytest.raises(HopFailed, match=message):
        ring.head.payable()


def test_a_hop_stops_when_its_credit_is_used_up_and_goes_on_when_paid():
    ring = Ring(THREE, window=2, credit=4)
    hop = ring.hops[0]
    for _ in range(4):
        assert hop.may_work()
        ring.step()
    assert not hop.may_work()
    hop.accept_receipt(2)
    assert hop.may_work()


def test_whoever_must_wait_has_sent_a_meter_to_be_paid_for():
    ring = Ring(THREE, window=3, credit=3)
    ring.step(StepKind.PREFILL, 2, 1)
    assert ring.hops[0].may_work()
    ring.step(StepKind.PREFILL, 5, 1)
    assert not ring.hops[0].may_work()
    assert any(index == 0 for index, _ in ring.meters)


def test_steps_must_come_in_order():
    ring = Ring(THREE)
    step = ring.send(StepKind.DECODE, 1, 1)
    with pytest.raises(RemoteProtocolError, match="next"):
        ring.hops[0].accept_step(dataclasses.replace(step, position=3))


def test_a_step_of_an_older_epoch_is_void_and_of_a_newer_one_refused():
    ring = Ring(THREE)
    hop = ring.hops[0]
    hop.open = dataclasses.replace(hop.open, epoch=2)
    step = ring.send(StepKind.DECODE, 1, 1)
    assert hop.accept_step(dataclasses.replace(step, epoch=1)) is False
    with pytest.raises(RemoteProtocolError):
        hop.accept_step(dataclasses.replace(step, epoch=3))


def test_a_step_past_the_reserved_capacity_is_refused():
    ring = Ring(THREE, capacity=4)
    with pytest.raises(SessionError, match="reserved"):
        ring.hops[0].accept_step(ring.send(StepKind.PREFILL, 5, 1))


@pytest.mark.parametrize(
    "change",
    [{"dtype": WireDtype.FP32, "payload": b"\0" * 32}, {"dtype": None, "payload": b"\0" * 4}],
)
def test_content_that_was_not_agreed_is_refused(change):
    ring = Ring(THREE)
    step = dataclasses.replace(ring.send(StepKind.DECODE, 1, 1), **change)
    with pytest.raises(RemoteProtocolError, match="takes"):
        ring.hops[0].accept_step(step)


def test_truncate_takes_rows_back_everywhere_and_keeps_the_work_counted():
    ring = Ring(THREE, window=64, credit=64)
    ring.step(StepKind.PREFILL, 5, 1)
    ring.step(StepKind.VERIFY, 4, 4)
    truncate = ring.head.send_truncate(6)
    assert all(hop.accept_truncate(truncate) for hop in ring.hops)
    ring.step()
    assert ring.head.position == 7
    ring.close()
    assert {meter.tokens for _, meter in ring.head.payable()} == {10}


def test_truncate_ahead_of_what_is_there_is_refused():
    ring = Ring(THREE)
    with pytest.raises(RemoteProtocolError):
        ring.hops[0].accept_truncate(Truncate(SESSION, 0, 3))


def test_steps_on_their_way_are_void_behind_a_truncate():
    ring = Ring(THREE)
    first, second = ring.send(StepKind.VERIFY, 3, 3), ring.send(StepKind.DECODE, 1, 1)
    assert ring.head.accept_result(ring.carry(first)).position == 0
    ring.head.send_truncate(2)
    assert (ring.head.position, ring.head.rows_arrived, ring.head.in_flight) == (2, 2, 1)
    late = Result(
        SESSION, 0, second.kind, second.position, 1, 1, second.dtype, HIDDEN, second.payload,
        second.payload_sha256,
    )  # fmt: skip
    assert ring.head.accept_result(late) is None
    assert (ring.head.rows_arrived, ring.head.results) == (2, 2), "it has arrived, and is paid"


def test_no_step_is_cut_in_the_middle():
    ring = Ring(THREE)
    ring.send(StepKind.VERIFY, 3, 3)
    with pytest.raises(LocalProtocolError):
        ring.head.send_truncate(2)


def test_the_head_bounds_what_is_on_its_way():
    ring = Ring(THREE)
    for _ in range(STEPS_IN_FLIGHT_MAX):
        ring.send(StepKind.DECODE, 1, 1)
    with pytest.raises(LocalProtocolError):
        ring.send(StepKind.DECODE, 1, 1)


def test_a_result_nobody_asked_for_is_refused():
    ring = Ring(THREE)
    result = ring.carry(ring.send(StepKind.DECODE, 1, 1))
    ring.head.accept_result(result)
    with pytest.raises(RemoteProtocolError, match="no step"):
        ring.head.accept_result(result)


def test_a_result_of_another_shape_is_refused():
    ring = Ring(THREE)
    result = ring.carry(ring.send(StepKind.DECODE, 1, 1))
    with pytest.raises(RemoteProtocolError, match="does not match"):
        ring.head.accept_result(dataclasses.replace(result, position=5))


def test_close_frees_a_hop_at_once_and_later_steps_are_dropped():
    ring = Ring(THREE)
    step = ring.send(StepKind.DECODE, 1, 1)
    hop = ring.hops[0]
    hop.accept_close(Close(SESSION, 0, 0, cancelled=True))
    assert hop.state is SessionState.CLOSING
    assert hop.accept_step(step) is False
    hop.settled()
    assert hop.state is SessionState.CLOSED
    assert hop.accept_step(step) is False


def test_close_that_refers_too_far_back_is_refused():
    ring = Ring([Span(0, 8)], window=1000, credit=1000, capacity=1000)
    for _ in range(LOOP_MAX + 3 * STEPS_IN_FLIGHT_MAX):
        ring.step()
    with pytest.raises(RemoteProtocolError, match="too far back"):
        ring.hops[0].accept_close(Close(SESSION, 0, 1, cancelled=True))


def kept(blocks):
    return tuple(bytes([n]) * 16 for n in range(blocks))


def test_the_first_step_begins_behind_what_all_hops_have():
    ring = Ring(THREE, window=64, credit=64, blocks=2, cached=(2, 2, 2))
    assert ring.head.align() is None
    assert ring.head.cached_tokens == ring.head.position == 128
    ring.step(StepKind.PREFILL, 5, 1)
    ring.close()
    due = ring.head.payable()
    assert {meter.tokens for _, meter in due} == {5}
    assert due[0][1].work == Work(prefill_token_layers=15, bytes_in=80, bytes_out=80)
    assert due[0][1].link_out_hash == due[1][1].link_in_hash


@pytest.mark.parametrize("cached", [(0, 2, 1), (2, 0, 2), (1, 1, 2), (2, 1, 1)])
def test_hops_that_have_more_are_brought_to_the_least(cached):
    ring = Ring(THREE, window=64, credit=64, blocks=2, cached=cached)
    truncate = ring.head.align()
    assert truncate.position == min(cached) * PREFIX_BLOCK_TOKENS
    assert all(hop.accept_truncate(truncate) for hop in ring.hops)
    ring.step(StepKind.PREFILL, 9, 1)
    assert {hop.position for hop in ring.hops} == {truncate.position + 9}
    ring.close()
    assert {meter.tokens for _, meter in ring.head.payable()} == {9}


def test_a_hop_that_has_more_does_not_take_a_step_without_the_truncate():
    ring = Ring(THREE, blocks=2, cached=(1, 2, 2))
    step = ring.send(StepKind.PREFILL, 5, 1)
    assert ring.hops[0].accept_step(step)
    with pytest.raises(RemoteProtocolError, match="128"):
        ring.hops[1].accept_step(step)


def test_a_hop_that_claims_more_than_was_offered_is_refused():
    with pytest.raises(RemoteProtocolError, match="not offered"):
        Ring(THREE, blocks=1, cached=(1, 2, 1))


def test_rows_that_were_here_count_towards_the_capacity():
    ring = Ring(THREE, capacity=66, blocks=1, cached=(1, 1, 1))
    with pytest.raises(SessionError, match="reserved"):
        ring.hops[0].accept_step(ring.send(StepKind.PREFILL, 3, 1))


def test_rows_that_have_arrived_or_were_here_may_be_kept_and_no_others():
    ring = Ring(THREE, window=200, credit=200, blocks=1, cached=(1, 1, 1))
    ring.step(StepKind.PREFILL, 64, 1)
    ring.carry(ring.send(StepKind.PREFILL, 64, 1))  # its result is lost on the way to the head
    with pytest.raises(LocalProtocolError, match="arrived"):
        ring.head.close(cancelled=True, keep=kept(3))


def test_rows_that_were_run_and_arrived_are_kept():
    ring = Ring(THREE, window=200, credit=200, blocks=1, cached=(1, 1, 1))
    ring.step(StepKind.PREFILL, 64, 1)
    ring.close(keep=kept(2))
    assert len(ring.head.payable()) == 3


def test_rows_that_were_taken_back_are_not_kept():
    ring = Ring(THREE)
    ring.step(StepKind.PREFILL, 70, 1)
    truncate = ring.head.send_truncate(60)
    assert ring.hops[0].accept_truncate(truncate)
    ring.hops[0].complete_truncate(truncate)
    assert ring.head.rows_arrived == 60
    with pytest.raises(RemoteProtocolError, match="keeps more"):
        ring.hops[0].accept_close(Close(SESSION, 0, 1, cancelled=False, keep=kept(1)))


def test_a_hop_keeps_no_rows_that_it_has_not_run():
    ring = Ring(THREE, blocks=1, cached=(1, 1, 1))
    assert ring.hops[0].accept_step(ring.send(StepKind.PREFILL, 64, 1))
    with pytest.raises(RemoteProtocolError, match="keeps more"):
        ring.hops[0].accept_close(Close(SESSION, 0, 0, cancelled=True, keep=kept(2)))


def test_a_truncate_that_close_has_overtaken_is_dropped():
    ring = Ring(THREE, blocks=1, cached=(1, 0, 1))
    truncate = ring.head.align()
    hop = ring.hops[2]
    hop.accept_close(ring.head.close(cancelled=True))
    assert hop.accept_truncate(truncate) is False
    hop.settled()
    assert hop.accept_truncate(truncate) is False


STEPS = st.lists(
    st.sampled_from([
        (StepKind.PREFILL, 7, 0), (StepKind.PREFILL, 3, 1),
        (StepKind.DECODE, 1, 1), (StepKind.VERIFY, 4, 4),
    ]),
    max_size=12,
)  # fmt: skip


@given(
    STEPS, st.integers(1, 9), st.integers(1, 3), st.booleans(),
    st.tuples(*[st.integers(0, 1)] * 3),
)  # fmt: skip
def test_receipts_always_add_up_to_all_work(steps, window, hop_count, sealed, cached):
    cuts = [0, *sorted({2, 5})[: hop_count - 1], 8]
    ring = Ring(
        [Span(a, b) for a, b in itertools.pairwise(cuts)],
        sealed=sealed, window=window, credit=10_000, blocks=1, cached=cached,
    )  # fmt: skip
    if truncate := ring.head.align():
        assert all(hop.accept_truncate(truncate) for hop in ring.hops)
    paid: dict[int, Meter] = {}
    for step in steps:
        ring.step(*step)
        ring.deliver_meters()
        for index, meter in ring.head.payable():
            assert index not in paid or meter.work.covers(paid[index].work)
            paid[index] = meter
    ring.close()
    paid |= dict(ring.head.payable())
    tokens = sum(count for _, count, _ in steps)
    for index, hop in enumerate(ring.route.hops):
        work = paid[index].work
        assert work.prefill_token_layers + work.decode_token_layers == tokens * len(hop.span)
        assert paid[index].final
