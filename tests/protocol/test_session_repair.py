"""A session through its repairs: what stays, what is counted, what is void."""

import dataclasses

import pytest

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frame import Close, Opened, Replay, Result, Step, StepKind, Truncate
from protocol.money import Work
from protocol.route import Span
from protocol.session import SessionState
from protocol.tensor import LINK_HASH_START, payload_hash
from tests.protocol.test_sessions import HIDDEN, SESSION, THREE, Ring


def reopened(ring, index, *, epoch=1, resume=0, steps=0, **change):
    return dataclasses.replace(
        ring.open(index, 200), epoch=epoch, resume=resume, steps=steps, **change
    )


def replay(ring, position, count, *, epoch=1):
    payload = ring.rows(count, tokens=not ring.route.sealed)
    return Replay(
        SESSION, epoch, StepKind.PREFILL, position, count, 0, ring.dtype, HIDDEN, payload,
        payload_hash(payload),
    )  # fmt: skip


class TestHop:
    def test_rows_that_have_arrived_stay_and_others_are_not_counted(self):
        ring = Ring(THREE, window=100, credit=400)
        hop = ring.hops[0]
        ring.step(StepKind.PREFILL, 10, 1)
        ring.carry(ring.send(StepKind.DECODE, 1, 1))
        assert hop.reopen(reopened(ring, 0, resume=10, steps=1)) == 10
        assert (hop.carried.tokens, hop.carried.steps) == (10, 0)
        assert hop.carried.link_in_hash == hop.carried.link_out_hash == LINK_HASH_START
        hop.ready(cached_tokens=10)
        assert hop.position == 10

    def test_it_forgets_all_where_it_is_told_to(self):
        ring = Ring(THREE)
        ring.step(StepKind.PREFILL, 10, 1)
        assert ring.hops[1].reopen(reopened(ring, 1, resume=10, steps=1, forget=True)) == 0

    @pytest.mark.parametrize(
        "change",
        [
            {"epoch": 0},
            {"hop_index": 1},
            {"capacity_tokens": 100},
            {"manifest_hash": b"m" * 32},
            {"sealed": False},
        ],
    )
    def test_a_repair_changes_neighbours_and_nothing_else(self, change):
        ring = Ring(THREE)
        frame = reopened(ring, 0, **change)
        with pytest.raises(RemoteProtocolError):
            ring.hops[0].reopen(frame)
        assert ring.hops[0].state is SessionState.READY

    def test_what_a_receipt_covers_is_not_taken_back(self):
        ring = Ring(THREE, window=4, credit=16)
        ring.step(StepKind.PREFILL, 10, 1)
        ring.hops[0].accept_receipt(10)
        with pytest.raises(RemoteProtocolError, match="receipt"):
            ring.hops[0].reopen(reopened(ring, 0, steps=0))

    def test_a_replay_is_work_in_and_nothing_out(self):
        ring = Ring(THREE, window=100, credit=400)
        hop = ring.hops[1]
        hop.reopen(reopened(ring, 1, resume=10))
        hop.ready()
        assert hop.is_behind
        rows = replay(ring, 0, 10)
        assert hop.accept_replay(rows)
        hop.complete_replay(rows)
        assert hop.carried.work == Work(10 * len(THREE[1]), 0, len(rows.payload), 0)
        assert (hop.carried.steps, hop.is_behind, hop.rows) == (0, False, 10)

    def test_no_step_comes_before_the_rows_it_rests_on_and_no_replay_behind_them(self):
        ring = Ring(THREE)
        hop = ring.hops[1]
        hop.reopen(reopened(ring, 1, resume=10))
        hop.ready()
        step = Step(
            SESSION, 1, StepKind.DECODE, 0, 1, 1, ring.dtype, HIDDEN, ring.rows(1),
            payload_hash(ring.rows(1)),
        )  # fmt: skip
        with pytest.raises(RemoteProtocolError, match="before the rows"):
            hop.accept_step(step)
        with pytest.raises(RemoteProtocolError, match="beyond"):
            hop.accept_replay(replay(ring, 0, 11))

    def test_a_replay_is_run_on_credit(self):
        ring = Ring(THREE, window=4, credit=4)
        hop = ring.hops[1]
        hop.reopen(reopened(ring, 1, resume=100))
        hop.ready()
        rows = replay(ring, 0, 100)
        hop.accept_replay(rows)
        hop.complete_replay(rows)
        assert hop.may_work()

    def test_without_a_neighbour_it_keeps_its_rows_and_drops_what_comes(self):
        ring = Ring(THREE, window=100, credit=400)
        hop = ring.hops[1]
        ring.step(StepKind.PREFILL, 10, 1)
        hop.lose_neighbour()
        assert hop.state is SessionState.BROKEN
        assert not hop.accept_step(ring.send(StepKind.DECODE, 1, 1))
        assert not hop.accept_truncate(Truncate(SESSION, 0, 3))
        meter = hop.accept_close(Close(SESSION, 0, 1, cancelled=True))
        assert (meter.tokens, meter.final) == (10, True)

    def test_a_standby_takes_replays_alone_and_as_they_come(self):
        ring = Ring(THREE)
        hop = ring.hops[1]
        hop.reopen(reopened(ring, 1, standby=True))
        hop.ready()
        assert hop.accept_replay(replay(ring, 0, 30))
        assert hop.accept_truncate(Truncate(SESSION, 1, 20))
        assert hop.accept_replay(replay(ring, 20, 5))
        with pytest.raises(RemoteProtocolError):
            hop.accept_step(Step(
                SESSION, 1, StepKind.DECODE, 25, 1, 1, ring.dtype, HIDDEN, ring.rows(1),
                payload_hash(ring.rows(1)),
            ))  # fmt: skip


class TestHead:
    def repaired(self, *, cached, lost=(1,), **ring):
        ring = Ring(THREE, **ring)
        ring.step(StepKind.PREFILL, 10, 1)
        ring.send(StepKind.DECODE, 1, 1)
        steps = ring.head.repair(ring.route, frozenset(lost))
        assert steps == 1
        for index, rows in enumerate(cached):
            ring.head.accept_opened(index, Opened(SESSION, 1, index, "fake", "lan", rows))
        return ring

    def test_it_begins_again_behind_what_has_arrived(self):
        ring = self.repaired(cached=(10, 0, 10))
        head = ring.head
        assert (head.epoch, head.position, head.resume, head.in_flight) == (1, 10, 10, 0)
        assert head.state is SessionState.READY
        assert head.align() is None

    def test_nobody_claims_rows_that_there_are_not(self):
        with pytest.raises(RemoteProtocolError, match="not offered"):
            self.repaired(cached=(11, 0, 10))

    def test_what_is_late_from_the_epoch_before_is_void(self):
        ring = self.repaired(cached=(10, 0, 10))
        payload = ring.rows(1)
        late = Result(
            SESSION, 0, StepKind.DECODE, 10, 1, 1, ring.dtype, HIDDEN, payload,
            payload_hash(payload),
        )  # fmt: skip
        assert ring.head.accept_result(late) is None
        assert not ring.head.accept_opened(0, Opened(SESSION, 0, 0, "fake", "lan", 0))

    @pytest.mark.parametrize(
        ("cached", "replay_from", "unable"),
        [
            ((10, 10, 10), (10, 10, 0), set()),
            ((10, 0, 10), (0, 0, 0), set()),
            ((10, 0, 10), (3, 0, 0), {0}),
            ((10, 10, 0), (0, 10, 0), {1}),
            ((10, 10, 0), (10, 10, 0), {0, 1}),
            ((10, 10, 7), (10, 7, 0), set()),
        ],
    )
    def test_who_cannot_replay_what_is_lacking_begins_from_nothing(
        self, cached, replay_from, unable
    ):
        ring = Ring(THREE)
        ring.step(StepKind.PREFILL, 10, 1)
        ring.head.repair(ring.route, frozenset({2}))
        for index in range(3):
            ring.head.accept_opened(
                index,
                Opened(SESSION, 1, index, "fake", "lan", cached[index], replay_from[index]),
            )
        assert ring.head.unable() == unable

    def test_the_number_of_hops_stays(self):
        ring = Ring(THREE)
        with pytest.raises(LocalProtocolError):
            ring.head.repair(Ring([Span(0, 8)]).route, frozenset({0}))

    def test_a_loop_goes_on_by_itself_and_nothing_is_sent_meanwhile(self):
        ring = Ring(THREE, sealed=False)
        payload = ring.rows(1, tokens=True)
        digest = payload_hash(payload)
        ring.head.send_step(StepKind.DECODE, 1, 1, digest, loop=2)
        with pytest.raises(LocalProtocolError, match="loop"):
            ring.head.send_step(StepKind.DECODE, 1, 1, digest)
        for position, loop, in_flight in ((0, 1, 1), (1, 1, 1), (2, 0, 0)):
            result = Result(
                SESSION, 0, StepKind.DECODE, position, 1, 1, None, 0, payload, digest, loop
            )
            assert ring.head.accept_result(result).position == position
            assert ring.head.in_flight == in_flight
        assert ring.head.position == 3

    def test_a_loop_that_nobody_asked_for_is_refused(self):
        ring = Ring(THREE, sealed=False)
        payload = ring.rows(1, tokens=True)
        digest = payload_hash(payload)
        ring.head.send_step(StepKind.DECODE, 1, 1, digest)
        with pytest.raises(RemoteProtocolError, match="not asked"):
            ring.head.accept_result(
                Result(SESSION, 0, StepKind.DECODE, 0, 1, 1, None, 0, payload, digest, 1)
            )


def test_head_and_hops_agree_on_what_a_repair_came_to():
    ring = Ring(THREE, window=100, credit=400)
    ring.step(StepKind.PREFILL, 10, 1)
    ring.step()
    fresh = type(ring.hops[1])(
        reopened(ring, 1, resume=11), hidden_size=HIDDEN, window_tokens=100, credit_tokens=400
    )
    steps = ring.head.repair(ring.route, frozenset({1}))
    for index in (0, 2):
        ring.hops[index].reopen(reopened(ring, index, resume=11, steps=steps))
        ring.hops[index].ready(cached_tokens=11)
    fresh.ready()
    ring.hops[1] = fresh
    for index, rows in enumerate((11, 0, 11)):
        ring.head.accept_opened(index, Opened(SESSION, 1, index, "fake", "lan", rows))
    rows = replay(ring, 0, 11)
    ring.hops[0].replayed_onward(rows.payload_sha256)
    fresh.accept_replay(rows)
    fresh.complete_replay(rows)
    for index, hop in enumerate(ring.hops):
        meter = hop.accept_close(Close(SESSION, 1, 0, cancelled=True))
        assert meter.tokens == 11
        ring.head.accept_meter(index, meter)
    assert len(ring.head.payable()) == 3
