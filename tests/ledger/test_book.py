"""The book: each movement once, no overdraft, holds that resolve at most once."""

import pytest

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Balance, Book, clearing_of, fee_of
from ledger.errors import (
    HoldResolved,
    HoldUnknown,
    InsufficientFunds,
    LedgerError,
    TransferConflict,
    Unbalanced,
)
from ledger.invariants import check
from ledger.models import AMOUNT_NANOS_MAX, BALANCE_NANOS_MAX
from tests.ledger.world import (
    BUYER,
    NOW_S,
    PROCESSOR,
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
EARNED = AccountRef(AccountCode.PROVIDER_EARNED, "provider-1")
CLEARING, FEE = clearing_of(HOLD), fee_of(HOLD)


@pytest.fixture
def book(session):
    yield Book(session)
    assert check(session) == []


@pytest.fixture
def funded(session, book):
    fund(session, 1_000)
    return book


def hold(book, nanos=600, hold_id=HOLD):
    return book.hold(hold_id, BUYER, nanos, now_s=NOW_S, expires_at_s=SETTLE_BY_S)


class TestTransfer:
    def test_moves_money(self, funded):
        assert funded.balance(buyer()) == Balance(credits_posted=1_000)
        assert funded.balance(PROCESSOR) == Balance(debits_posted=1_000)
        assert funded.balance(PROCESSOR).posted_nanos == -1_000

    def test_again_is_the_same_row_and_moves_nothing(self, funded):
        def pay():
            return funded.transfer(buyer(), EARNED, 10, code="gift", ref="one", now_s=NOW_S)

        assert pay().id == pay().id
        assert funded.balance(EARNED).posted_nanos == 10

    @pytest.mark.parametrize(
        ("debit", "credit", "nanos"),
        [(buyer(), EARNED, 11), (buyer(), FEE, 10), (PROCESSOR, EARNED, 10)],
    )
    def test_other_content_under_the_same_ref_conflicts(self, funded, debit, credit, nanos):
        funded.transfer(buyer(), EARNED, 10, code="gift", ref="one", now_s=NOW_S)
        with pytest.raises(TransferConflict):
            funded.transfer(debit, credit, nanos, code="gift", ref="one", now_s=NOW_S)
        assert funded.balance(EARNED).posted_nanos == 10

    def test_the_same_ref_under_another_code_is_another_movement(self, funded):
        for code in ("gift", "tip"):
            funded.transfer(buyer(), EARNED, 10, code=code, ref="one", now_s=NOW_S)
        assert funded.balance(EARNED).posted_nanos == 20

    def test_no_overdraft(self, funded):
        with pytest.raises(InsufficientFunds) as raised:
            funded.transfer(buyer(), EARNED, 1_001, code="gift", ref="one", now_s=NOW_S)
        assert (raised.value.needed_nanos, raised.value.available_nanos) == (1_001, 1_000)
        assert raised.value.account == "buyer_cash:buyer-1"
        assert funded.balance(buyer()).available_nanos == 1_000

    def test_an_unknown_account_has_nothing(self, book):
        with pytest.raises(InsufficientFunds):
            book.transfer(buyer("nobody"), EARNED, 1, code="gift", ref="one", now_s=NOW_S)

    @pytest.mark.parametrize("nanos", [0, -1, 1.0, True, "1", None, AMOUNT_NANOS_MAX + 1])
    def test_only_whole_positive_amounts_in_range(self, funded, nanos):
        with pytest.raises(Unbalanced):
            funded.transfer(buyer(), EARNED, nanos, code="gift", ref="one", now_s=NOW_S)
        with pytest.raises(Unbalanced):
            hold(funded, nanos)

    def test_an_account_cannot_pay_itself(self, funded):
        with pytest.raises(Unbalanced):
            funded.transfer(buyer(), buyer(), 1, code="gift", ref="one", now_s=NOW_S)

    def test_a_balance_is_refused_before_it_overflows(self, session):
        book = Book(session)
        for number in range(BALANCE_NANOS_MAX // AMOUNT_NANOS_MAX):
            fund(session, AMOUNT_NANOS_MAX, ref=f"topup {number}")
        savepoint = session.begin_nested()
        with pytest.raises(Exception, match=r"credits_posted|debits_posted"):
            fund(session, 1, ref="one more")
        savepoint.rollback()
        assert book.balance(buyer()).posted_nanos == BALANCE_NANOS_MAX


class TestHold:
    def test_sets_money_aside(self, funded):
        hold(funded)
        balance = funded.balance(buyer())
        assert (balance.posted_nanos, balance.available_nanos) == (1_000, 400)
        assert funded.balance(CLEARING) == Balance(credits_pending=600)

    def test_again_is_the_same_hold(self, funded):
        assert hold(funded).id == hold(funded).id
        assert funded.balance(buyer()).available_nanos == 400

    def test_another_amount_under_the_same_id_conflicts(self, funded):
        hold(funded)
        with pytest.raises(TransferConflict):
            hold(funded, 601)

    def test_never_beyond_what_is_available(self, funded):
        hold(funded)
        with pytest.raises(InsufficientFunds) as raised:
            hold(funded, 401, id_of("second"))
        assert raised.value.available_nanos == 400
        hold(funded, 400, id_of("second"))
        assert funded.balance(buyer()).available_nanos == 0

    def test_held_money_cannot_be_spent_otherwise(self, funded):
        hold(funded)
        with pytest.raises(InsufficientFunds):
            funded.transfer(buyer(), EARNED, 401, code="gift", ref="one", now_s=NOW_S)

    def test_an_id_has_sixteen_bytes(self, funded):
        with pytest.raises(LedgerError):
            hold(funded, hold_id=b"short")


class TestPostHold:
    def test_charges_credits_and_gives_back_the_rest(self, funded):
        hold(funded)
        funded.post_hold(HOLD, 500, [(EARNED, 470), (FEE, 30)], now_s=NOW_S)
        assert funded.balance(buyer()) == Balance(credits_posted=1_000, debits_posted=500)
        assert funded.balance(EARNED).posted_nanos == 470
        assert funded.balance(FEE).posted_nanos == 30
        assert funded.balance(CLEARING).posted_nanos == 0

    def test_at_most_once(self, funded):
        hold(funded)
        funded.post_hold(HOLD, 500, [(EARNED, 500)], now_s=NOW_S)
        for _ in range(3):
            with pytest.raises(HoldResolved):
                funded.post_hold(HOLD, 500, [(EARNED, 500)], now_s=NOW_S)
        with pytest.raises(HoldResolved):
            funded.release(HOLD, now_s=NOW_S)
        assert funded.balance(EARNED).posted_nanos == 500

    @pytest.mark.parametrize(
        "legs",
        [[], [(EARNED, 499)], [(EARNED, 501)], [(EARNED, 501), (FEE, -1)], [(EARNED, 500.0)]],
    )
    def test_credits_must_sum_to_the_charge(self, funded, legs):
        hold(funded)
        with pytest.raises(Unbalanced):
            funded.post_hold(HOLD, 500, legs, now_s=NOW_S)
        assert funded.balance(buyer()).available_nanos == 400

    def test_never_above_the_hold(self, funded):
        hold(funded)
        with pytest.raises(InsufficientFunds):
            funded.post_hold(HOLD, 601, [(EARNED, 601)], now_s=NOW_S)

    def test_the_whole_hold(self, funded):
        hold(funded)
        funded.post_hold(HOLD, 600, [(EARNED, 0), (EARNED, 300), (EARNED, 300)], now_s=NOW_S)
        assert funded.balance(buyer()).available_nanos == 400
        assert funded.balance(EARNED).posted_nanos == 600

    def test_nothing_charged_is_a_release(self, funded):
        hold(funded)
        funded.post_hold(HOLD, 0, [(EARNED, 0)], now_s=NOW_S)
        assert funded.balance(buyer()) == Balance(credits_posted=1_000)

    def test_an_unknown_hold(self, funded):
        with pytest.raises(HoldUnknown):
            funded.post_hold(HOLD, 1, [(EARNED, 1)], now_s=NOW_S)


class TestRelease:
    def test_gives_everything_back_and_again_is_no_error(self, funded):
        hold(funded)
        for _ in range(2):
            funded.release(HOLD, now_s=NOW_S)
        assert funded.balance(buyer()) == Balance(credits_posted=1_000)
        assert funded.balance(CLEARING) == Balance()

    def test_then_nothing_can_be_posted(self, funded):
        hold(funded)
        funded.release(HOLD, now_s=NOW_S)
        with pytest.raises(HoldResolved):
            funded.post_hold(HOLD, 1, [(EARNED, 1)], now_s=NOW_S)

    def test_an_unknown_hold(self, funded):
        with pytest.raises(HoldUnknown):
            funded.release(HOLD, now_s=NOW_S)

    def test_not_while_a_lease_may_earn(self, session, book):
        leased_hold(session, "hold", [lease_of("lease", "hold")])
        with pytest.raises(LedgerError, match="may still earn"):
            book.release(HOLD, now_s=SETTLE_BY_S)
        book.release(HOLD, now_s=SETTLE_BY_S + 1)

    def test_not_when_a_lease_has_earned(self, session, book):
        lease = lease_of("lease", "hold")
        leased_hold(session, "hold", [lease])
        accept(session, receipt_of(lease, 1, 10, final=True))
        with pytest.raises(LedgerError, match="may still earn"):
            book.release(HOLD, now_s=SETTLE_BY_S + 1)


def test_totals_cover_every_code(funded):
    hold(funded)
    totals = funded.totals()
    assert set(totals) == set(AccountCode)
    assert totals[AccountCode.BUYER_CASH] == Balance(credits_posted=1_000, debits_pending=600)
    assert totals[AccountCode.PROVIDER_EARNED] == Balance()
