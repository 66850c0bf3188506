"""A hold in one round trip stands whole, or has changed nothing at all."""

import pytest

from ledger.accounts import AccountCode
from ledger.balances import Balance
from ledger.book import Book, clearing_of
from ledger.database import Session
from ledger.errors import InsufficientFunds, TransferConflict
from ledger.invariants import check
from ledger.models import TransferCode, TransferState
from ledger.reserving import reserve_at_once
from ledger.resolving import hold_ref
from ledger.transfers import find_transfer, transfer_values
from tests.ledger.world import BUYER, NOW_S, SETTLE_BY_S, buyer, fund, id_of
from tests.postgres import both_engines

pytestmark = both_engines

PRICE = 1_000
HOLD = id_of("one")


def at_once(session: Session, hold_id: bytes = HOLD, amount_nanos: int = PRICE) -> bool:
    clearing = clearing_of(hold_id)
    pending = transfer_values(
        buyer(), clearing, amount_nanos, state=TransferState.PENDING, code=TransferCode.HOLD,
        ref=hold_ref(hold_id, 0), now_s=NOW_S, expires_at_s=SETTLE_BY_S,
    )  # fmt: skip
    hold = {
        "hold_id": hold_id, "buyer": BUYER, "amount_nanos": amount_nanos, "parts": 1,
        "leased_nanos": 0, "settle_by_s": SETTLE_BY_S, "closed": False,
    }  # fmt: skip
    return reserve_at_once(session, buyer(), clearing, pending, hold)


def held(session: Session) -> tuple[int, int]:
    """Pending on the buyer's side, and on that of clearing, of all holds."""
    totals = Book(session).totals()
    return (
        totals[AccountCode.BUYER_CASH].debits_pending,
        totals[AccountCode.CLEARING_SETTLE].credits_pending,
    )


def hold(session: Session, hold_id: bytes, amount_nanos: int = PRICE) -> None:
    Book(session).hold(hold_id, BUYER, amount_nanos, now_s=NOW_S, expires_at_s=SETTLE_BY_S)


def test_the_first_of_a_clearing_account_goes_step_by_step(session):
    fund(session, PRICE)
    assert not at_once(session)
    assert held(session) == (0, 0)
    hold(session, HOLD)
    assert held(session) == (PRICE, PRICE)


def test_it_stands_with_its_transfer(session, engine_name):
    fund(session, 3 * PRICE)
    hold(session, HOLD)
    other = HOLD[:1] + id_of("other")[1:]
    if engine_name == "sqlite":
        # no journey to save: whoever asks goes step by step
        assert not at_once(session, other)
        return
    assert at_once(session, other)
    assert held(session) == (2 * PRICE, 2 * PRICE)
    assert find_transfer(session, TransferCode.HOLD, hold_ref(other, 0)) is not None
    assert Book(session).parts(other) == 1
    assert check(session) == []


def test_too_little_money_changes_nothing(session):
    fund(session, PRICE)
    hold(session, HOLD)
    other = HOLD[:1] + id_of("other")[1:]
    assert not at_once(session, other)
    assert held(session) == (PRICE, PRICE)
    with pytest.raises(InsufficientFunds):
        hold(session, other)
    assert check(session) == []


def test_the_same_again_changes_nothing(session):
    fund(session, 5 * PRICE)
    hold(session, HOLD)
    assert not at_once(session)
    hold(session, HOLD)
    with pytest.raises(TransferConflict):
        hold(session, HOLD, 2 * PRICE)
    assert held(session) == (PRICE, PRICE)
    assert Book(session).balance(buyer()) == Balance(debits_pending=PRICE, credits_posted=5 * PRICE)
    assert check(session) == []


def test_the_last_nano_is_reserved_at_once(session, engine_name):
    fund(session, 2 * PRICE)
    hold(session, HOLD)
    other = HOLD[:1] + id_of("other")[1:]
    assert at_once(session, other) == (engine_name == "postgresql")
    hold(session, other)
    assert held(session) == (2 * PRICE, 2 * PRICE)
    assert check(session) == []
