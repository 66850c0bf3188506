"""A hop through epochs: what it keeps, counts, drops and refuses."""

import dataclasses

import pytest

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frame import LOOP_MAX, StepKind, Truncate
from protocol.money import Work
from protocol.route import Span
from protocol.sampling import SamplingParameters
from protocol.session import SessionState
from protocol.tensor import LINK_HASH_START, WireDtype, extend_link_hash
from tests.protocol.alone import (
    HEAD,
    LAYERS,
    OUT,
    PEERS,
    ROW_BYTES,
    SESSION,
    a_hop,
    close,
    reopen,
    replay,
    run,
    step,
)


class TestReopening:
    def test_rows_that_arrived_stay_and_are_all_that_counts(self):
        hop = a_hop(window=100, credit=100)
        run(hop, step(0, 5, step=StepKind.PREFILL))
        run(hop, step(5))
        run(hop, step(6))
        assert reopen(hop, resume=6, steps=2) == 6
        assert (hop.position, hop.rows, hop.carried.tokens, hop.carried.steps) == (6, 6, 6, 0)
        assert hop.carried.link_in_hash == hop.carried.link_out_hash == LINK_HASH_START
        run(hop, step(6, epoch=1))
        assert hop.carried.work.prefill_token_layers == 7 * LAYERS

    def test_steps_that_were_accepted_and_not_run_are_no_rows(self):
        hop = a_hop()
        run(hop, step(0, 5, step=StepKind.PREFILL))
        assert hop.accept_step(step(5, 3, wanted=3, step=StepKind.VERIFY))
        assert (hop.position, hop.rows) == (8, 5)
        assert reopen(hop, resume=8, steps=1) == 5
        assert hop.is_behind

    def test_a_hop_that_is_told_to_forget_has_nothing(self):
        hop = a_hop()
        run(hop, step(0, 5))
        assert reopen(hop, resume=5, steps=1, forget=True) == 0
        with pytest.raises(RemoteProtocolError, match="before the rows"):
            hop.accept_step(step(0, epoch=1))

    @pytest.mark.parametrize(
        "change",
        [
            {"session_id": b"t" * 16}, {"hop_index": 2}, {"hop_count": 4},
            {"manifest_hash": b"m" * 32}, {"span": Span(3, 6)}, {"wire_dtype": WireDtype.FP32},
            {"sealed": False}, {"capacity_tokens": 201},
            {"sampling": SamplingParameters.from_floats(temperature=0.5)},
        ],
        ids=lambda change: next(iter(change)),
    )  # fmt: skip
    def test_what_is_the_same_in_every_epoch_cannot_be_changed(self, change):
        hop = a_hop()
        run(hop, step(0, 5))
        before = hop.open
        frame = dataclasses.replace(before, epoch=1, resume=5, steps=1, **change)
        with pytest.raises(RemoteProtocolError, match=next(iter(change))):
            hop.reopen(frame)
        assert (hop.open, hop.state, hop.rows) == (before, SessionState.READY, 5)

    def test_neighbours_and_what_follows_from_them_may_change(self):
        hop = a_hop(lease=b"one")
        reopen(
            hop, resume=0, previous=HEAD, next=PEERS[3], next_addresses=("/ip4/192.0.2.9",),
            lease=b"two", neighbours=(b"three",), mirror=PEERS[3],
        )  # fmt: skip
        assert hop.open.next == PEERS[3]

    @pytest.mark.parametrize("epoch", [2, 3])
    def test_an_epoch_that_is_not_later_is_refused(self, epoch):
        hop = a_hop(epoch=3)
        with pytest.raises(RemoteProtocolError, match="later"):
            reopen(hop, resume=0, epoch=epoch)

    def test_what_a_receipt_covers_cannot_be_taken_back(self):
        hop = a_hop(window=5, credit=5)
        run(hop, step(0, 5))
        hop.accept_receipt(5)
        with pytest.raises(RemoteProtocolError, match="receipt"):
            reopen(hop, resume=0, steps=0)
        assert hop.state is SessionState.READY
        reopen(hop, resume=5, steps=1)

    def test_a_hop_that_is_still_opening_goes_on_to_the_next_epoch(self):
        """It has come with a repair, and another hop was lost meanwhile."""
        hop = a_hop(ready=False, epoch=1, resume=9)
        assert reopen(hop, resume=9, ready=False) == 0
        assert hop.state is SessionState.REOPENING
        hop.ready()
        run(hop, replay(0, 9, epoch=2))
        assert not hop.is_behind

    def test_one_repair_may_follow_another_from_any_state(self):
        hop = a_hop()
        run(hop, step(0, 4))
        hop.lose_neighbour()
        reopen(hop, resume=4, steps=1, ready=False)
        reopen(hop, resume=4, ready=False)
        hop.lose_neighbour()
        assert reopen(hop, resume=4) == 4
        run(hop, step(4, epoch=3))

    def test_all_steps_of_a_loop_may_be_taken_back_but_the_first(self):
        """The ring may be far ahead of the results that have reached the head."""
        hop = a_hop(capacity_tokens=1000, window=1000, credit=1000)
        for position in range(1 + LOOP_MAX):
            run(hop, step(position, wanted=1, loop=LOOP_MAX - position))
        assert reopen(hop, resume=1, steps=1, capacity_tokens=1000) == 1
        assert hop.carried.tokens == 1


class TestReplaying:
    def test_it_is_prefill_that_comes_in_and_is_in_the_hash_of_its_link(self):
        hop = a_hop(window=100, credit=100, epoch=1, resume=7)
        first, second = replay(0, 4, epoch=1, fill=1), replay(4, 3, epoch=1, fill=2)
        for frame in (first, second):
            assert hop.is_behind
            run(hop, frame)
        link = extend_link_hash(LINK_HASH_START, first.payload_sha256)
        assert hop.carried.link_in_hash == extend_link_hash(link, second.payload_sha256)
        assert hop.carried.link_out_hash == LINK_HASH_START
        assert hop.carried.work == Work(7 * LAYERS, 0, 7 * ROW_BYTES, 0)
        assert (hop.carried.steps, hop.carried.tokens, hop.rows) == (0, 7, 7)

    def test_what_is_replayed_onward_is_in_the_hash_and_costs_nothing(self):
        hop = a_hop()
        run(hop, step(0, 5))
        reopen(hop, resume=5, steps=1)
        hop.replayed_onward(OUT)
        assert hop.carried.link_out_hash == extend_link_hash(LINK_HASH_START, OUT)
        assert hop.carried.tokens == 5

    @pytest.mark.parametrize(
        "change",
        [
            {"position": 1}, {"epoch": 2}, {"count": 10, "payload": bytes(10 * ROW_BYTES)},
            {"dtype": None, "payload": bytes(4 * 4), "hidden_size": 0},
            {"hidden_size": 4, "payload": bytes(4 * ROW_BYTES // 2)},
        ],
        ids=["position", "epoch", "beyond", "tokens", "hidden size"],
    )  # fmt: skip
    def test_rows_that_do_not_come_next_are_refused(self, change):
        hop = a_hop(epoch=1, resume=9)
        with pytest.raises(RemoteProtocolError):
            hop.accept_replay(dataclasses.replace(replay(0, 4, epoch=1), **change))

    def test_replays_of_an_older_epoch_are_void(self):
        hop = a_hop(epoch=1, resume=9)
        assert hop.accept_replay(replay(0, 4)) is False
        assert hop.position == 0

    def test_a_replay_behind_which_no_step_came_counts_for_nothing_in_the_next_epoch(self):
        """The head cannot know how much of it had been run."""
        hop = a_hop(window=100, credit=100, epoch=1, resume=9)
        run(hop, replay(0, 5, epoch=1))
        assert reopen(hop, resume=9) == 5, "but its rows stay"
        assert hop.carried.tokens == 0
        run(hop, replay(5, 4, epoch=2))
        assert run(hop, step(9, epoch=2)) is None
        assert close(hop, steps=1).tokens == 5

    def test_steps_come_behind_a_truncate_that_takes_back_replayed_rows(self):
        hop = a_hop(epoch=1, resume=9)
        run(hop, replay(0, 9, epoch=1))
        assert hop.accept_truncate(Truncate(SESSION, 1, 6))
        assert not hop.is_behind
        run(hop, step(6, epoch=1))
        with pytest.raises(RemoteProtocolError):
            hop.accept_replay(replay(7, 2, epoch=1))


class TestLosing:
    def test_a_broken_hop_drops_all_rows_and_keeps_its_own(self):
        hop = a_hop()
        run(hop, step(0, 4))
        hop.lose_neighbour()
        assert not hop.accept_step(step(4))
        assert not hop.accept_truncate(Truncate(SESSION, 0, 1))
        assert not hop.accept_replay(replay(4))
        assert (hop.state, hop.position, hop.rows) == (SessionState.BROKEN, 4, 4)

    def test_a_hop_that_is_opening_cannot_keep_what_it_does_not_have(self):
        with pytest.raises(LocalProtocolError):
            a_hop(ready=False).lose_neighbour()

    def test_a_link_that_ends_behind_close_is_no_loss(self):
        hop = a_hop()
        close(hop)
        hop.lose_neighbour()
        assert hop.state is SessionState.CLOSING

    def test_a_truncate_that_has_not_run_leaves_the_rows_in_the_engine(self):
        hop = a_hop()
        run(hop, step(0, 8))
        truncate = Truncate(SESSION, 0, 5)
        queued = step(8)
        assert hop.accept_step(queued)
        assert hop.accept_truncate(truncate)
        assert (hop.position, hop.rows) == (5, 8)
        hop.complete_step(queued, bytes_out=0, digest_out=OUT)
        assert hop.rows == 9
        hop.complete_truncate(truncate)
        assert hop.rows == 5
