"""What may follow a receipt."""

import dataclasses

import pytest

from ledger.errors import ReceiptRejected
from ledger.lane import Watermark, check_order
from protocol.money import Work
from tests.ledger.world import lease_of, receipt_record

LEASE = lease_of("lease", "hold")
EARLIER = Watermark.of(receipt_record(LEASE, 3, 10))
LATER = Watermark.of(receipt_record(LEASE, 4, 12))


def test_more_may_follow():
    check_order(LEASE.lease_id, Watermark(), EARLIER)
    check_order(LEASE.lease_id, EARLIER, LATER)


def test_the_same_counts_may_follow_under_a_new_sequence():
    check_order(LEASE.lease_id, EARLIER, dataclasses.replace(EARLIER, sequence=4, final=True))


def test_nothing_follows_a_final_receipt():
    with pytest.raises(ReceiptRejected, match="closed"):
        check_order(LEASE.lease_id, dataclasses.replace(EARLIER, final=True), LATER)


@pytest.mark.parametrize(
    "less",
    [
        {"steps": 9},
        {"tokens": 9},
        {"work": Work(0, 39, 12 * 1024, 12 * 1024)},
        {"work": Work(0, 48, 12 * 1024, 9 * 1024)},
        {"amount_nanos": 1},
    ],
)
def test_less_of_anything_is_refused(less):
    with pytest.raises(ReceiptRejected, match="less"):
        check_order(LEASE.lease_id, EARLIER, dataclasses.replace(LATER, **less))


@pytest.mark.parametrize("field", ["tokens", "work", "link_in_hash", "link_out_hash"])
def test_no_step_between_means_no_difference(field):
    changed = dataclasses.replace(LATER, steps=EARLIER.steps)
    same = {"tokens", "work", "link_in_hash", "link_out_hash"} - {field}
    changed = dataclasses.replace(changed, **{name: getattr(EARLIER, name) for name in same})
    with pytest.raises(ReceiptRejected, match="same step"):
        check_order(LEASE.lease_id, EARLIER, changed)


def test_work_before_any_step_is_refused():
    with pytest.raises(ReceiptRejected, match="same step"):
        check_order(LEASE.lease_id, Watermark(), dataclasses.replace(EARLIER, steps=0))


class TestEpochs:
    """Steps and link hashes begin anew with every epoch; what was carried does not."""

    NEXT = dataclasses.replace(LATER, epoch=1, steps=1)

    def test_steps_begin_anew(self):
        check_order(LEASE.lease_id, EARLIER, self.NEXT)
        check_order(LEASE.lease_id, self.NEXT, dataclasses.replace(LATER, sequence=5, epoch=3))

    def test_the_same_counts_may_follow_in_a_later_epoch(self):
        check_order(LEASE.lease_id, EARLIER, dataclasses.replace(EARLIER, epoch=1, steps=0))

    def test_a_hop_that_came_later_begins_in_a_later_epoch(self):
        check_order(LEASE.lease_id, Watermark(), dataclasses.replace(EARLIER, epoch=2, steps=1))

    def test_a_replay_is_carried_before_any_step(self):
        replayed = dataclasses.replace(EARLIER, epoch=2, steps=0)
        check_order(LEASE.lease_id, Watermark(), replayed)
        more = dataclasses.replace(LATER, epoch=2, steps=0)
        check_order(LEASE.lease_id, replayed, more)
        with pytest.raises(ReceiptRejected, match="less"):
            check_order(LEASE.lease_id, more, replayed)

    def test_no_epoch_comes_back(self):
        with pytest.raises(ReceiptRejected, match="less"):
            check_order(LEASE.lease_id, dataclasses.replace(EARLIER, epoch=1), LATER)

    @pytest.mark.parametrize(
        "less",
        [
            {"tokens": 9},
            {"work": Work(0, 39, 12 * 1024, 12 * 1024)},
            {"amount_nanos": 1},
        ],
    )
    def test_a_later_epoch_takes_nothing_back(self, less):
        with pytest.raises(ReceiptRejected, match="less"):
            check_order(LEASE.lease_id, EARLIER, dataclasses.replace(self.NEXT, **less))

    def test_steps_do_not_go_back_within_one(self):
        later = dataclasses.replace(self.NEXT, sequence=5, steps=0)
        with pytest.raises(ReceiptRejected, match="less"):
            check_order(LEASE.lease_id, self.NEXT, later)

    def test_no_step_between_means_no_difference_within_one(self):
        later = dataclasses.replace(self.NEXT, sequence=5, tokens=self.NEXT.tokens + 1)
        with pytest.raises(ReceiptRejected, match="same step"):
            check_order(LEASE.lease_id, self.NEXT, later)
