"""Receipts: verified, idempotent, independent of order; the highest counts and replays pay 0."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.book import Book
from ledger.errors import HoldResolved, HoldUnknown, LedgerError
from ledger.invariants import check
from ledger.leaf import ReceiptLeaf, decode_leaf
from ledger.log import Log
from ledger.models import LaneRow
from ledger.receipts import RECEIPTS_PER_BATCH_MAX, ReceiptStatus, open_lane
from ledger.settle_window import mark_closed, settle_ready
from protocol.envelope import seal
from protocol.money import with_fee_nanos
from protocol.receipt import CosignedReceipt
from tests.ledger.world import (
    BUYER,
    MARKET,
    NOW_S,
    OTHER,
    SETTLE_BY_S,
    accept,
    fund,
    id_of,
    key_of,
    lease_of,
    leased_hold,
    memory,
    receipt_of,
    rolled_back,
)
from tests.postgres import both_engines

pytestmark = both_engines

LEASE = lease_of("lease", "hold")
ENGINE = memory()


@pytest.fixture
def lane(session):
    leased_hold(session, "hold", [LEASE])
    yield session
    assert check(session) == []


def statuses(outcomes):
    return [outcome.status.value for outcome in outcomes]


def received(session) -> int:
    return session.get(LaneRow, LEASE.lease_id, populate_existing=True).amount_received_nanos


class TestOpenLane:
    def envelope(self, lease):
        return seal(lease, MARKET).encode()

    def held(self, session, nanos):
        fund(session, nanos)
        Book(session).hold(id_of("hold"), BUYER, nanos, now_s=NOW_S, expires_at_s=SETTLE_BY_S)

    def test_again_is_no_error_and_counts_once(self, lane):
        open_lane(lane, self.envelope(LEASE), LEASE)

    def test_the_hold_must_cover_the_leases_with_the_fee(self, session):
        self.held(session, with_fee_nanos(LEASE.amount_nanos_max, LEASE.fee_basis_points) - 1)
        with pytest.raises(LedgerError, match="does not cover"):
            open_lane(session, self.envelope(LEASE), LEASE)
        assert check(session) == []

    def test_exactly_enough_is_enough(self, session):
        self.held(session, with_fee_nanos(2 * LEASE.amount_nanos_max, LEASE.fee_basis_points))
        for name in ("a", "b"):
            lease = lease_of(name, "hold")
            open_lane(session, self.envelope(lease), lease)
        third = lease_of("c", "hold", amount_nanos_max=1)
        with pytest.raises(LedgerError, match="does not cover"):
            open_lane(session, self.envelope(third), third)
        assert check(session) == []

    def test_one_hold_has_one_fee(self, lane):
        other = lease_of("other", "hold", fee_basis_points=LEASE.fee_basis_points + 1)
        with pytest.raises(LedgerError, match="one fee"):
            open_lane(lane, self.envelope(other), other)

    def test_a_taken_lease_id_is_refused(self, lane):
        other = dataclasses.replace(LEASE, tokens_max=LEASE.tokens_max + 1)
        with pytest.raises(LedgerError, match="taken"):
            open_lane(lane, self.envelope(other), other)

    def test_the_envelope_must_hold_this_lease(self, lane):
        with pytest.raises(LedgerError, match="does not hold"):
            open_lane(lane, self.envelope(LEASE), lease_of("other", "hold"))

    def test_no_hold_or_a_resolved_one(self, session):
        with pytest.raises(HoldUnknown):
            open_lane(session, self.envelope(LEASE), LEASE)
        self.held(session, 100_000)
        Book(session).release(id_of("hold"), now_s=NOW_S)
        with pytest.raises(HoldResolved):
            open_lane(session, self.envelope(LEASE), LEASE)

    @given(st.integers(1, 10**15), st.integers(0, 10_000), st.integers(-2, 2))
    def test_the_bound_is_exact(self, amount, fee, off):
        from ledger.lanes import _leasable_nanos

        most = _leasable_nanos(amount, fee)
        assert with_fee_nanos(most, fee) <= amount < with_fee_nanos(most + 1, fee)


class TestAccept:
    def test_is_logged_and_counts(self, lane):
        encoded = receipt_of(LEASE, 1, 10)
        (outcome,) = accept(lane, encoded)
        assert (outcome.status, outcome.leaf_index) == (ReceiptStatus.ACCEPTED, 0)
        assert (outcome.lease_id, outcome.sequence) == (LEASE.lease_id, 1)
        leaf = decode_leaf(Log(lane).page(0, 1)[0])
        assert leaf == ReceiptLeaf(seal(LEASE, MARKET).encode(), encoded)
        assert received(lane) == LEASE.amount_for(CosignedReceipt.decode(encoded).open(LEASE).work)

    def test_the_same_ten_times_pays_and_logs_once(self, lane):
        encoded = receipt_of(LEASE, 1, 10)
        first = accept(lane, encoded)
        paid = received(lane)
        for _ in range(10):
            (again,) = accept(lane, encoded)
            assert (again.status, again.leaf_index) == (ReceiptStatus.DUPLICATE, 0)
        assert first[0].leaf_index == 0
        assert (received(lane), Log(lane).size) == (paid, 1)

    def test_twins_in_one_batch(self, lane):
        encoded = receipt_of(LEASE, 1, 10)
        outcomes = accept(lane, encoded, encoded)
        assert statuses(outcomes) == ["accepted", "duplicate"]
        assert [outcome.leaf_index for outcome in outcomes] == [0, 0]

    def test_only_the_highest_of_a_batch_is_stored(self, lane):
        batch = [receipt_of(LEASE, sequence, sequence * 5) for sequence in (1, 3, 2)]
        assert statuses(accept(lane, *batch)) == ["superseded", "accepted", "superseded"]
        assert Log(lane).size == 1

    def test_a_lower_one_that_comes_later_pays_nothing(self, lane):
        accept(lane, receipt_of(LEASE, 5, 50))
        paid = received(lane)
        (outcome,) = accept(lane, receipt_of(LEASE, 4, 40))
        assert (outcome.status, outcome.leaf_index) == (ReceiptStatus.SUPERSEDED, None)
        assert received(lane) == paid

    def test_outcomes_come_in_the_batchs_order(self, session):
        leases = [lease_of(f"lease {number}", "hold") for number in range(3)]
        leased_hold(session, "hold", leases)
        batch = [receipt_of(lease, 1, 10 + number) for number, lease in enumerate(leases)]
        outcomes = accept(session, *batch, b"rubbish")
        assert [outcome.lease_id for outcome in outcomes[:3]] == [
            lease.lease_id for lease in leases
        ]
        assert [outcome.leaf_index for outcome in outcomes] == [0, 1, 2, None]

    def test_an_empty_batch(self, lane):
        assert accept(lane) == []

    def test_a_batch_has_a_limit(self, lane):
        with pytest.raises(LedgerError):
            accept(lane, *[b""] * (RECEIPTS_PER_BATCH_MAX + 1))

    def test_many_lanes_in_one_batch(self, session):
        # more than one query's worth of rows
        count = 450
        leases = [
            lease_of(f"lease {number}", "hold", amount_nanos_max=25_000) for number in range(count)
        ]
        leased_hold(session, "hold", leases, nanos=12_000_000)
        batch = [receipt_of(lease, 1, 3) for lease in leases]
        assert set(statuses(accept(session, *batch))) == {"accepted"}
        assert set(statuses(accept(session, *batch))) == {"duplicate"}
        assert Log(session).size == count


class TestRefuse:
    def refused(self, session, *batch, **options):
        (outcome,) = accept(session, *batch, **options)
        assert outcome.status is ReceiptStatus.REJECTED
        assert outcome.leaf_index is None
        return outcome.reason

    def test_another_providers_lease(self, lane):
        encoded = receipt_of(LEASE, 1, 10)
        assert "another provider" in self.refused(lane, encoded, provider=OTHER)

    def test_a_lease_that_was_never_issued(self, lane):
        unknown = lease_of("unknown", "hold")
        assert "no such lease" in self.refused(lane, receipt_of(unknown, 1, 10))

    def test_another_payers_signature(self, lane):
        assert "may say it" in self.refused(lane, receipt_of(LEASE, 1, 10, payer=key_of("x")))

    def test_another_countersignature(self, lane):
        encoded = receipt_of(LEASE, 1, 10, provider=OTHER)
        assert "signature" in self.refused(lane, encoded)

    def test_an_amount_that_is_not_the_works(self, lane):
        encoded = receipt_of(LEASE, 1, 10, amount_nanos=1)
        assert "worth" in self.refused(lane, encoded)

    def test_more_work_than_the_lease_allows(self, lane):
        roomy = dataclasses.replace(
            LEASE, work_max=dataclasses.replace(LEASE.work_max, decode_token_layers=10**6)
        )
        assert "More work" in self.refused(lane, receipt_of(roomy, 1, 1_100))

    def test_equivocation_on_one_sequence(self, lane):
        accept(lane, receipt_of(LEASE, 1, 10))
        assert "equivocation" in self.refused(lane, receipt_of(LEASE, 1, 11))

    def test_equivocation_inside_one_batch(self, lane):
        outcomes = accept(lane, receipt_of(LEASE, 1, 10), receipt_of(LEASE, 1, 11))
        assert statuses(outcomes) == ["accepted", "rejected"]
        assert "equivocation" in outcomes[1].reason

    def test_a_later_one_that_says_less(self, lane):
        accept(lane, receipt_of(LEASE, 1, 10))
        assert "says less" in self.refused(lane, receipt_of(LEASE, 2, 9))

    def test_an_earlier_one_that_says_more(self, lane):
        accept(lane, receipt_of(LEASE, 2, 10))
        assert "says less" in self.refused(lane, receipt_of(LEASE, 1, 11))

    def test_anything_after_the_final_one(self, lane):
        accept(lane, receipt_of(LEASE, 1, 10, final=True))
        assert "closed" in self.refused(lane, receipt_of(LEASE, 2, 11))

    def test_an_earlier_final_one(self, lane):
        accept(lane, receipt_of(LEASE, 2, 10))
        assert "closed" in self.refused(lane, receipt_of(LEASE, 1, 9, final=True))

    def test_work_without_a_step(self, lane):
        assert "same step" in self.refused(lane, receipt_of(LEASE, 1, 10, steps=0))

    def test_after_settle_by_but_a_duplicate_is_still_answered(self, lane):
        encoded = receipt_of(LEASE, 1, 10)
        accept(lane, encoded, now_s=SETTLE_BY_S)
        late = SETTLE_BY_S + 1
        assert statuses(accept(lane, encoded, now_s=late)) == ["duplicate"]
        assert "until" in self.refused(lane, receipt_of(LEASE, 2, 11), now_s=late)

    def test_after_settlement(self, lane):
        encoded = receipt_of(LEASE, 1, 10, final=True)
        accept(lane, encoded)
        mark_closed(lane, id_of("hold"))
        assert settle_ready(lane, now_s=NOW_S, limit=1)
        assert statuses(accept(lane, encoded)) == ["duplicate"]
        assert "settled" in self.refused(lane, receipt_of(LEASE, 2, 10))

    def test_a_good_one_beside_a_bad_one_counts(self, lane):
        batch = [receipt_of(LEASE, 2, 10, payer=key_of("x")), receipt_of(LEASE, 1, 5)]
        assert statuses(accept(lane, *batch)) == ["rejected", "accepted"]

    @given(position=st.integers(0, 600), mask=st.integers(1, 255))
    @settings(deadline=None)
    def test_one_flipped_byte_is_never_accepted(self, position, mask):
        encoded = bytearray(receipt_of(LEASE, 1, 10))
        encoded[position % len(encoded)] ^= mask
        with rolled_back(ENGINE) as session:
            leased_hold(session, "hold", [LEASE])
            (outcome,) = accept(session, bytes(encoded))
            assert outcome.status is ReceiptStatus.REJECTED

    @given(st.binary(max_size=100))
    def test_arbitrary_bytes(self, data):
        with rolled_back(ENGINE) as session:
            (outcome,) = accept(session, data)
            assert outcome.status is ReceiptStatus.REJECTED


class TestOrder:
    @given(
        tokens=st.lists(st.integers(0, 900), min_size=1, max_size=6).map(sorted),
        data=st.data(),
    )
    @settings(deadline=None, max_examples=40)
    def test_no_order_no_split_and_no_replay_changes_the_pay(self, tokens, data):
        batch = [
            receipt_of(LEASE, sequence, count, final=sequence == len(tokens))
            for sequence, count in enumerate(tokens, 1)
        ]
        played = data.draw(st.permutations(batch * 2))
        cut = data.draw(st.integers(0, len(played)))
        with rolled_back(ENGINE) as session:
            leased_hold(session, "hold", [LEASE])
            for part in (played[:cut], played[cut:]):
                for outcome in accept(session, *part):
                    assert outcome.status is not ReceiptStatus.REJECTED
            highest = CosignedReceipt.decode(batch[-1]).open(LEASE)
            assert received(session) == highest.amount_nanos
            assert check(session) == []
