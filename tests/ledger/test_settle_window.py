"""Which holds settle when, and that each one is posted whole, once."""

import pytest

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book, clearing_of, fee_of
from ledger.errors import HoldUnknown
from ledger.invariants import check
from ledger.leaf import SettlementLeaf, decode_leaf
from ledger.log import Log
from ledger.settle_window import mark_closed, settle_ready
from protocol.receipt import CosignedReceipt
from tests.ledger.world import (
    BUYER,
    FEE_BASIS_POINTS,
    NOW_S,
    OTHER,
    PROVIDER,
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

FIRST = lease_of("first", "hold")
SECOND = lease_of("second", "hold", provider=OTHER)


@pytest.fixture
def two_hops(session):
    leased_hold(session, "hold", [FIRST, SECOND])
    yield session
    assert check(session) == []


def settle(session, now_s=NOW_S):
    return settle_ready(session, now_s=now_s, limit=100)


def deliver(session, *, final=True):
    """Both hops' receipts; gives what they earned."""
    one = receipt_of(FIRST, 1, 100, final=final)
    other = receipt_of(SECOND, 1, 101, provider=OTHER, final=final)
    accept(session, one)
    accept(session, other, provider=OTHER)
    return [
        CosignedReceipt.decode(encoded).open(lease).amount_nanos
        for encoded, lease in ((one, FIRST), (other, SECOND))
    ]


def earned(session, provider) -> int:
    account = AccountRef(AccountCode.PROVIDER_EARNED, str(provider.peer_id))
    return Book(session).balance(account).posted_nanos


class TestWhen:
    def test_not_before_it_is_closed(self, two_hops):
        deliver(two_hops)
        assert settle(two_hops) == []

    def test_not_before_every_lease_is_final(self, two_hops):
        mark_closed(two_hops, id_of("hold"))
        deliver(two_hops, final=False)
        assert settle(two_hops, SETTLE_BY_S) == []
        assert settle(two_hops, SETTLE_BY_S + 1)

    def test_closed_and_final(self, two_hops):
        deliver(two_hops)
        mark_closed(two_hops, id_of("hold"))
        assert len(settle(two_hops)) == 1
        assert settle(two_hops) == []

    def test_closed_before_anything_was_leased(self, session):
        leased_hold(session, "hold", [])
        assert settle(session) == []
        mark_closed(session, id_of("hold"))
        (released,) = settle(session)
        assert (released.charged_nanos, released.leaf_index) == (0, None)

    def test_a_lease_may_outlive_its_holds_expiry(self, session):
        lease = lease_of("first", "hold", settle_by_s=SETTLE_BY_S + 50)
        leased_hold(session, "hold", [lease])
        assert settle(session, SETTLE_BY_S + 50) == []
        assert settle(session, SETTLE_BY_S + 51)

    def test_an_unknown_hold_cannot_be_closed(self, session):
        with pytest.raises(HoldUnknown):
            mark_closed(session, id_of("hold"))

    def test_only_one_buyers_where_he_is_named(self, session):
        for name in (BUYER, "another"):
            fund(session, 100, name=name)
            Book(session).hold(id_of(name), name, 100, now_s=NOW_S, expires_at_s=NOW_S)
        late = NOW_S + 1
        (settled,) = settle_ready(session, now_s=late, limit=9, buyer="another")
        assert settled.buyer == "another"
        (rest,) = settle(session, late)
        assert rest.buyer == BUYER

    def test_the_limit_takes_the_longest_due_first(self, session):
        for number in (3, 1, 2):
            fund(session, 100, ref=str(number))
            Book(session).hold(
                id_of(str(number)), BUYER, 100, now_s=NOW_S, expires_at_s=NOW_S + number
            )
        late = NOW_S + 10
        settled = [
            item.hold_id for _ in range(2) for item in settle_ready(session, now_s=late, limit=2)
        ]
        assert settled == [id_of("1"), id_of("2"), id_of("3")]


class TestWhat:
    def test_buyer_providers_and_fee_in_one_posting(self, two_hops):
        before = Book(two_hops).balance(buyer()).posted_nanos
        amounts = deliver(two_hops)
        mark_closed(two_hops, id_of("hold"))
        (settled,) = settle(two_hops)
        charged = sum(amounts) * (10_000 + FEE_BASIS_POINTS) // 10_000
        assert (settled.charged_nanos, settled.fee_nanos) == (charged, charged - sum(amounts))
        assert settled.buyer == BUYER
        assert [earned(two_hops, provider) for provider in (PROVIDER, OTHER)] == amounts
        book = Book(two_hops)
        assert book.balance(fee_of(id_of("hold"))).posted_nanos == settled.fee_nanos
        assert book.balance(clearing_of(id_of("hold"))).posted_nanos == 0
        balance = book.balance(buyer())
        assert balance.posted_nanos == balance.available_nanos == before - charged

    def test_the_log_says_so(self, two_hops):
        amounts = deliver(two_hops)
        mark_closed(two_hops, id_of("hold"))
        (settled,) = settle(two_hops)
        assert settled.leaf_index == 2
        leaf = decode_leaf(Log(two_hops).page(2, 1)[0])
        assert isinstance(leaf, SettlementLeaf)
        assert leaf.hold_id == id_of("hold")
        assert leaf.charged_nanos == settled.charged_nanos
        assert leaf.credits == settled.credits
        assert {credit.lease_id: credit.nanos for credit in leaf.credits} == {
            FIRST.lease_id: amounts[0],
            SECOND.lease_id: amounts[1],
        }

    def test_no_receipt_means_release_and_no_entry(self, two_hops):
        (settled,) = settle(two_hops, SETTLE_BY_S + 1)
        assert (settled.charged_nanos, settled.credits, settled.leaf_index) == (0, (), None)
        assert Log(two_hops).size == 0
        balance = Book(two_hops).balance(buyer())
        assert balance.available_nanos == balance.posted_nanos

    def test_a_lease_without_receipt_is_left_out(self, two_hops):
        accept(two_hops, receipt_of(FIRST, 1, 100))
        (settled,) = settle(two_hops, SETTLE_BY_S + 1)
        assert [credit.lease_id for credit in settled.credits] == [FIRST.lease_id]

    def test_work_that_is_worth_nothing_is_logged_and_released(self, two_hops):
        accept(two_hops, receipt_of(FIRST, 1, 0, final=True))
        (settled,) = settle(two_hops, SETTLE_BY_S + 1)
        assert (settled.charged_nanos, settled.leaf_index) == (0, 1)

    def test_two_leases_of_one_provider(self, session):
        leases = [FIRST, lease_of("again", "hold")]
        leased_hold(session, "hold", leases)
        accept(session, *(receipt_of(lease, 1, 100, final=True) for lease in leases))
        mark_closed(session, id_of("hold"))
        (settled,) = settle(session)
        assert earned(session, PROVIDER) == sum(credit.nanos for credit in settled.credits)
        assert check(session) == []

    def test_many_holds_at_once(self, session):
        for number in range(30):
            lease = lease_of(f"lease {number}", f"hold {number}")
            leased_hold(session, f"hold {number}", [lease])
            accept(session, receipt_of(lease, 1, number + 1, final=True))
            mark_closed(session, id_of(f"hold {number}"))
        settled = settle(session)
        assert len(settled) == 30
        assert [item.leaf_index for item in settled] == list(range(30, 60))
        assert check(session) == []
