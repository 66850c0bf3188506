"""A head through repairs: what it counts, what it asks of hops, what comes late."""

import pytest

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frame import Opened, StepKind
from protocol.head_session import HeadSession
from protocol.session import SessionState
from tests.protocol.alone import (
    DIGEST,
    DTYPE,
    HIDDEN,
    SESSION,
    THREE,
    a_head,
    an_open,
    back,
    opened,
    route_of,
    send,
)
from tests.protocol.ring import Ring


class TestRepair:
    def test_who_stays_goes_on_counting_and_who_is_new_begins_at_nothing(self):
        ring = Ring(window=4, credit=16)
        ring.step(StepKind.PREFILL, 6, 1)
        ring.pay()
        ring.step()
        ring.repair(1)
        ring.replay()
        ring.step()
        ring.close()
        paid = dict(ring.head.payable())
        assert [paid[index].tokens for index in range(3)] == [8, 8, 8]
        layers = [len(span) for span in THREE]
        assert [paid[index].work.prefill_token_layers for index in range(3)] == [
            6 * layers[0], 7 * layers[1], 6 * layers[2],
        ]  # fmt: skip
        assert paid[1].work.bytes_out == 1 * 16, "what it was sent again it has sent to nobody"
        assert {paid[index].steps for index in range(3)} == {1}

    def test_steps_whose_results_are_missing_are_forgotten_and_run_again_unpaid(self):
        ring = Ring(window=100, credit=100)
        ring.step(StepKind.PREFILL, 6, 1)
        for _ in range(3):
            ring.carry(ring.send())
        ring.repair()
        assert (ring.head.in_flight, ring.head.position, ring.head.rows_arrived) == (0, 6, 6)
        for _ in range(3):
            ring.step()
        ring.close()
        assert {meter.tokens for _, meter in ring.head.payable()} == {9}

    @pytest.mark.parametrize("forget", [(), (0,), (0, 1)])
    def test_hops_and_head_agree_whoever_is_lost_or_forgets(self, forget):
        ring = Ring(window=2, credit=4)
        ring.step(StepKind.PREFILL, 5, 1)
        ring.repair(2, forget=forget)
        ring.replay()
        for _ in range(6):
            ring.step()
            ring.pay()
        assert all(hop.may_work() for hop in ring.hops), "and whoever works is paid"
        ring.close()
        assert len(ring.head.payable()) == 3

    @pytest.mark.parametrize("reached", [0, 1, 2, 3])
    def test_a_second_repair_finds_the_replay_of_the_first_at_any_point(self, reached):
        """Nobody is dishonest because a hop died before all of a replay had come through."""
        ring = Ring(window=2, credit=8)
        ring.step(StepKind.PREFILL, 5, 1)
        ring.repair(0, 1)
        ring.replay(until=reached)
        ring.repair(2)
        ring.replay()
        ring.step()
        ring.close()
        paid = dict(ring.head.payable())
        assert {meter.final for meter in paid.values()} == {True}
        assert paid[2].tokens == 6

    @pytest.mark.parametrize("reached", [0, 1, 2, 3])
    @pytest.mark.parametrize("is_ready", [False, True])
    def test_a_session_may_be_closed_at_any_point_of_a_replay(self, reached, is_ready):
        """Before all hops are ready, too: they replay to one another as soon as links stand."""
        ring = Ring(window=100, credit=100)
        ring.step(StepKind.PREFILL, 5, 1)
        ring.repair(0, 1, answered=3 if is_ready else 2)
        ring.replay(until=reached)
        ring.close(cancelled=True)
        paid = dict(ring.head.payable())
        assert {meter.final for meter in paid.values()} == {True}
        assert paid[2].tokens == 5
        assert max(paid[0].tokens, paid[1].tokens) <= 5

    def test_nothing_is_sent_while_hops_are_replaced(self):
        head = a_head()
        head.repair(head.route, {1})
        for action in (lambda: send(head), lambda: head.send_truncate(0)):
            with pytest.raises(LocalProtocolError, match="repairing"):
                action()

    def test_a_repair_may_be_given_up_for_a_close(self):
        head = a_head(metered=True)
        back(head, send(head))
        head.repair(head.route, {1})
        frame = head.close(cancelled=True)
        assert (frame.epoch, frame.steps, head.state) == (1, 0, SessionState.CLOSING)
        assert not head.accept_opened(0, opened(0, 1, epoch=1)), "some may still answer"

    def test_a_repair_of_a_session_that_is_full_has_rows_for_its_open(self):
        """Its last rows may be drafts that are taken back in a moment."""
        assert an_open(resume=200, epoch=1).resume == 200

    def test_a_new_route_is_sent_all_rows_of_the_old_one(self):
        head = HeadSession(
            SESSION, route_of(THREE), hidden_size=HIDDEN, wire_dtype=DTYPE, metered=True, epoch=3,
            resume=7,
        )  # fmt: skip
        for index in range(3):
            head.accept_opened(index, opened(index, epoch=3))
        assert (head.position, head.rows_arrived, head.unable()) == (7, 7, frozenset())

    def test_only_rows_that_every_hop_has_are_named_to_keep(self):
        """After a repair a hop may have fewer than have arrived, until its replay is through."""
        ring = Ring()
        ring.step(StepKind.PREFILL, 70, 1)
        ring.repair(1)
        close = ring.head.close(cancelled=True, keep=(b"k" * 16,))
        for hop in ring.hops:
            hop.accept_close(close)
        assert close.keep == ()


class TestAnswers:
    """OPENED, and whatever comes late."""

    @pytest.mark.parametrize(
        "frame",
        [
            opened(0, 4, epoch=1), opened(0, 0, epoch=2), opened(1, 0, epoch=1),
            Opened(b"t" * 16, 1, 0, "fake", "lan"),
        ],
        ids=["too many rows", "another epoch", "another hop", "another session"],
    )  # fmt: skip
    def test_an_answer_that_cannot_be_is_refused(self, frame):
        head = a_head()
        back(head, send(head, 3, 3))
        head.repair(head.route, {1})
        with pytest.raises(RemoteProtocolError):
            head.accept_opened(0, frame)
        assert not head.has_opened(0)

    def test_rows_need_be_no_whole_blocks_after_a_repair(self):
        head = a_head()
        back(head, send(head, 3, 3))
        head.repair(head.route, {1})
        for index, held in enumerate((3, 0, 2)):
            assert head.accept_opened(index, opened(index, held, epoch=1)) is (index == 2)
        assert head.align() is None
        assert head.position == 3

    def test_one_answer_does_not_come_twice(self):
        head = a_head()
        head.repair(head.route, {1})
        head.accept_opened(0, opened(0, epoch=1))
        with pytest.raises(RemoteProtocolError, match="out of turn"):
            head.accept_opened(0, opened(0, epoch=1))

    def test_what_comes_late_from_an_older_epoch_changes_nothing(self):
        ring = Ring(window=1, credit=8)
        late = ring.carry(ring.send())
        ring.repair(1)
        before = (ring.head.results, ring.head.rows_arrived, ring.head.state)
        assert ring.head.accept_result(late) is None
        ring.deliver_meters()
        assert not ring.head.accept_opened(0, opened(0, epoch=0))
        assert (ring.head.results, ring.head.rows_arrived, ring.head.state) == before
        assert ring.head.payable() == []

    def test_what_comes_from_an_epoch_that_is_not_yet_is_refused(self):
        ring = Ring(window=1, credit=8)
        ticket = ring.head.send_step(StepKind.DECODE, 1, 1, DIGEST)
        with pytest.raises(RemoteProtocolError):
            back(ring.head, ticket, epoch=1)
