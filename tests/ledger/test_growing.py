"""A hold that grows: more is set aside under the same name, and one settlement resolves it all."""

import dataclasses
from dataclasses import replace

import pytest
from sqlalchemy import select, text

from ledger import integrity
from ledger.book import Book, clearing_of, fee_of
from ledger.errors import (
    HoldResolved,
    HoldUnknown,
    InsufficientFunds,
    LedgerError,
    TransferConflict,
)
from ledger.invariants import check
from ledger.lanes import extend_lane, open_lane, open_lanes
from ledger.models import HoldRow, LaneRow
from ledger.settle_window import mark_closed, settle_ready
from protocol.envelope import seal
from protocol.lease import Lease
from protocol.money import Work
from tests.ledger.world import (
    BUYER,
    MARKET,
    NOW_S,
    PAYER,
    SETTLE_BY_S,
    accept,
    buyer,
    fund,
    id_of,
    lease_of,
    leased_hold,
    receipt_of,
)
from tests.postgres import both_engines

pytestmark = both_engines

HOLD = id_of("hold")
LEASE = lease_of("lease", "hold")
HOLD_NANOS = 110_000


@pytest.fixture
def book(session):
    fund(session, 1_000_000)
    book = Book(session)
    book.hold(HOLD, BUYER, HOLD_NANOS, now_s=NOW_S, expires_at_s=SETTLE_BY_S)
    yield book
    assert check(session) == []
    assert integrity.check(session, MARKET.peer_id) == []


def grow(book, part=1, nanos=50_000, expires_at_s=SETTLE_BY_S):
    return book.grow_hold(HOLD, part, nanos, now_s=NOW_S, expires_at_s=expires_at_s)


def states(session) -> dict[str, tuple[str, int]]:
    """What resolved each part, and over how much."""
    rows = session.execute(
        text("SELECT ref, state, amount_nanos FROM ledger_transfer WHERE pending_id IS NOT NULL")
    )
    return {row.ref.removeprefix(HOLD.hex()): (row.state, row.amount_nanos) for row in rows}


class TestGrowHold:
    def test_more_is_held(self, book):
        grow(book)
        assert book.balance(buyer()).debits_pending == HOLD_NANOS + 50_000
        assert book.balance(clearing_of(HOLD)).credits_pending == HOLD_NANOS + 50_000
        assert book.parts(HOLD) == 2

    def test_again_is_the_same_part(self, book):
        first = grow(book)
        assert grow(book).id == first.id
        assert book.balance(buyer()).debits_pending == HOLD_NANOS + 50_000

    def test_another_amount_under_the_same_part_is_refused(self, book):
        grow(book)
        with pytest.raises(TransferConflict):
            grow(book, nanos=50_001)

    @pytest.mark.parametrize("part", [-1, 0, 2, 5])
    def test_parts_follow_one_another(self, book, part):
        with pytest.raises(LedgerError):
            grow(book, part)

    def test_not_beyond_the_balance(self, book):
        with pytest.raises(InsufficientFunds):
            grow(book, nanos=1_000_000 - HOLD_NANOS + 1)
        grow(book, nanos=1_000_000 - HOLD_NANOS)
        assert book.balance(buyer()).available_nanos == 0

    def test_an_unknown_or_resolved_hold_does_not_grow(self, book):
        with pytest.raises(HoldUnknown):
            book.grow_hold(id_of("other"), 1, 5, now_s=NOW_S, expires_at_s=SETTLE_BY_S)
        book.release(HOLD, now_s=NOW_S)
        with pytest.raises(HoldResolved):
            grow(book)


class TestResolve:
    @pytest.mark.parametrize(
        ("charged", "expected"),
        [
            (100_000, {"": ("post", 100_000), ":1": ("void", 50_000), ":2": ("void", 20_000)}),
            (110_000, {"": ("post", 110_000), ":1": ("void", 50_000), ":2": ("void", 20_000)}),
            (110_001, {"": ("post", 110_000), ":1": ("post", 1), ":2": ("void", 20_000)}),
            (180_000, {"": ("post", 110_000), ":1": ("post", 50_000), ":2": ("post", 20_000)}),
            (0, {"": ("void", 110_000), ":1": ("void", 50_000), ":2": ("void", 20_000)}),
        ],
    )
    def test_the_charge_is_taken_from_the_parts_in_order(self, session, book, charged, expected):
        grow(book)
        grow(book, 2, 20_000)
        book.post_hold(HOLD, charged, [(fee_of(HOLD), charged)], now_s=NOW_S)
        assert states(session) == expected
        balance = book.balance(buyer())
        assert (balance.debits_pending, balance.debits_posted) == (0, charged)

    def test_release_gives_every_part_back(self, book):
        grow(book)
        book.release(HOLD, now_s=NOW_S)
        assert book.balance(buyer()).available_nanos == 1_000_000

    def test_not_beyond_all_parts(self, book):
        grow(book)
        with pytest.raises(InsufficientFunds):
            book.post_hold(HOLD, 160_001, [(fee_of(HOLD), 160_001)], now_s=NOW_S)


def extended(times: int = 2, **changes: object) -> Lease:
    """The lease with `times` as much of everything."""
    work = LEASE.work_max
    grown = Work(
        work.prefill_token_layers * times,
        work.decode_token_layers * times,
        work.bytes_in * times,
        work.bytes_out * times,
    )
    values = {"work_max": grown, "amount_nanos_max": LEASE.amount_nanos_max * times, **changes}
    return dataclasses.replace(LEASE, **values)


def put(session, lease):
    extend_lane(session, seal(lease, MARKET).encode(), lease)


class TestExtendLane:
    @pytest.fixture
    def lane(self, session, book):
        open_lane(session, seal(LEASE, MARKET).encode(), LEASE)
        return book

    def test_more_work_is_taken_afterwards(self, session, lane):
        tokens = LEASE.work_max.decode_token_layers // len(LEASE.span) + 1
        much = receipt_of(extended(), 2, tokens)
        assert accept(session, much)[0].status == "rejected"
        grow(lane, nanos=200_000)
        lease = extended(settle_by_s=SETTLE_BY_S + 60)
        put(session, lease)
        receipt = receipt_of(lease, 1, tokens, final=True)
        assert accept(session, receipt, now_s=SETTLE_BY_S + 30)[0].status == "accepted"
        mark_closed(session, HOLD)
        (settled,) = settle_ready(session, now_s=NOW_S, limit=1)
        assert settled.charged_nanos > 0

    def test_again_is_no_error_and_counts_once(self, session, lane):
        grow(lane, nanos=200_000)
        for _ in range(2):
            put(session, extended())

    def test_the_hold_must_have_grown(self, session, lane):
        with pytest.raises(LedgerError, match="does not cover"):
            put(session, extended(4))

    @pytest.mark.parametrize(
        "changes",
        [
            {"tokens_max": LEASE.tokens_max + 1},
            {"payer_key": PAYER.peer_id.public_key[::-1]},
            {"amount_nanos_max": LEASE.amount_nanos_max - 1},
            {"work_max": Work()},
        ],
    )
    def test_nothing_but_limits_and_these_only_upwards(self, session, lane, changes):
        grow(lane, nanos=200_000)
        with pytest.raises(LedgerError):
            put(session, extended(**changes))

    def test_an_unknown_lease_and_a_resolved_hold(self, session, lane):
        with pytest.raises(LedgerError, match="no lease"):
            put(session, lease_of("other", "hold"))
        lane.post_hold(HOLD, 0, [], now_s=NOW_S)
        with pytest.raises(HoldResolved):
            put(session, extended())


class TestTogether:
    """Leases that are opened together are all of one hold, or none is opened."""

    def pairs(self, *leases):
        return [(seal(lease, MARKET).encode(), lease) for lease in leases]

    def test_all_are_counted_against_the_hold(self, session):
        leased_hold(session, "hold", [])
        first, second = lease_of("one", "hold"), lease_of("two", "hold")
        open_lanes(session, self.pairs(first, second))
        open_lanes(session, self.pairs(second, first))
        leased = session.execute(select(HoldRow.leased_nanos)).scalar_one()
        assert leased == first.amount_nanos_max + second.amount_nanos_max

    def test_two_holds_or_two_fees_are_refused(self, session):
        leased_hold(session, "hold", [])
        leased_hold(session, "other", [])
        one = lease_of("one", "hold")
        for odd in (
            lease_of("two", "other"),
            replace(lease_of("three", "hold"), fee_basis_points=one.fee_basis_points + 1),
        ):
            with pytest.raises(LedgerError, match="one hold and one fee"):
                open_lanes(session, self.pairs(one, odd))
        assert session.execute(select(LaneRow.lease_id)).all() == []


def test_a_part_that_ends_sooner_does_not_end_the_hold_sooner(book, session):
    grow(book, expires_at_s=NOW_S + 1)
    assert settle_ready(session, now_s=SETTLE_BY_S, limit=9) == []
    (released,) = settle_ready(session, now_s=SETTLE_BY_S + 1, limit=9)
    assert released.charged_nanos == 0
