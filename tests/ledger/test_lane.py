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
