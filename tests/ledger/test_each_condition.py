"""Each condition of each rule is needed: what is broken here no other condition of its query sees.

`test_invariants.py` asks whether a rule speaks; here the very sentence must be there.
"""

import re

import pytest
from sqlalchemy import text

from ledger.book import Book
from ledger.database import Session
from ledger.invariants import check
from tests.ledger.world import (
    BUYER,
    NOW_S,
    SETTLE_BY_S,
    fund,
    id_of,
    memory,
    only_sqlite,
    settled_and_open,
    unguarded,
)

pytestmark = only_sqlite

_FEE = "UPDATE ledger_account SET {0} = {0} + 1 WHERE code = 'fee'"
_OPEN_LANE = "UPDATE ledger_lane SET {} WHERE NOT settled"
_FEE_LEG = "UPDATE ledger_transfer SET {} WHERE code = 'settle' AND credit LIKE 'fee:%'"
_POST = "UPDATE ledger_transfer SET {} WHERE state = 'post'"
_MARK = "I5: lease [0-9a-f]{32} differs from its last receipt"
_MISFIT = "I4: transfer [0-9a-f]{32} does not fit the hold it resolves"
_SUM = "I7: settlement of hold [0-9a-f]{32} does not sum to its charge"

BROKEN = (
    (_FEE.format("debits_pending"), r"I2: fee:\d\d differs"),
    (_FEE.format("debits_posted"), r"I2: fee:\d\d differs"),
    (_FEE.format("credits_pending"), r"I2: fee:\d\d differs"),
    (_FEE.format("credits_posted"), r"I2: fee:\d\d differs"),
    ("DELETE FROM ledger_account WHERE code = 'fee'", r"I2: there is no account fee:\d\d "),
    (
        "UPDATE ledger_account SET debits_pending = credits_posted WHERE code = 'buyer_cash'",
        "I3: buyer_cash:.* is overdrawn",
    ),
    (
        "UPDATE ledger_account SET code = 'x', name = 'x:' || owner"
        " WHERE code = 'processor_pending'",
        "I3: x: is not the account",
    ),
    (
        "DROP INDEX uq_ledger_transfer_resolve_once;"
        "INSERT INTO ledger_transfer"
        " (id, debit, credit, amount_nanos, state, pending_id, code, ref, created_at_s, digest)"
        " SELECT digest, debit, credit, 1, 'post', pending_id, 'post_hold', 'again', 0, digest"
        " FROM ledger_transfer WHERE state = 'post'",
        "I4: transfer [0-9a-f]{32} is resolved 2 times",
    ),
    (_POST.format("amount_nanos = 1000000"), _MISFIT),
    (_POST.format("ref = ref || 'x'"), _MISFIT),
    (_POST.format("debit = 'processor_pending:'"), _MISFIT),
    (_POST.format("credit = 'processor_pending:'"), _MISFIT),
    ("UPDATE ledger_transfer SET amount_nanos = amount_nanos - 1 WHERE state = 'void'", _MISFIT),
    (
        "UPDATE ledger_hold SET amount_nanos = amount_nanos + 1",
        "I4: hold .* says other than the book",
    ),
    ("DELETE FROM ledger_hold WHERE charged_nanos IS NULL", "I4: hold .* is in the book alone"),
    ("DELETE FROM ledger_hold WHERE closed", "I4: there is no hold .* that was closed"),
    ("UPDATE ledger_lane SET amount_nanos_max = 1", _MARK),
    (
        "DELETE FROM ledger_receipt"
        " WHERE lease_id IN (SELECT lease_id FROM ledger_lane WHERE NOT settled);"
        + _OPEN_LANE.format("amount_received_nanos = 0"),
        _MARK,
    ),
    (_OPEN_LANE.format("amount_received_nanos = amount_received_nanos + 1"), _MARK),
    (_OPEN_LANE.format("settled = 1, amount_settled_nanos = amount_received_nanos"), _MARK),
    (_OPEN_LANE.format("last_sequence = 0, amount_received_nanos = 0"), _MARK),
    ("UPDATE ledger_hold SET amount_nanos = leased_nanos - 1", "I6: hold .* backs leases for"),
    (_FEE_LEG.format("amount_nanos = amount_nanos + 1"), _SUM),
    (_FEE_LEG.format("credit = 'processor_fees:'"), _SUM),
    (_FEE_LEG.format("debit = 'processor_pending:'"), _SUM),
    ("DELETE FROM ledger_transfer WHERE code = 'post_hold'", "I7: settlement .* has no charge"),
    ("DELETE FROM ledger_transfer WHERE code = 'settle'", _SUM),
    (
        "UPDATE ledger_leaf SET kind = 'settlement' WHERE leaf_index = 0",
        "I8: .*leaf 0 is no receipt",
    ),
    ("DELETE FROM ledger_leaf WHERE leaf_index = 0", "I8: a receipt has no leaf"),
    (
        "UPDATE ledger_receipt SET window_index = window_index + leaf_index, leaf_index = 0",
        "I8: leaf 0 is of 2 receipts",
    ),
    ("DELETE FROM ledger_leaf WHERE leaf_index = 1", "I8: the log has 2 leaves"),
    ("UPDATE ledger_leaf SET leaf_index = 9 WHERE leaf_index = 2", "I8: the log has 3 leaves"),
)


@pytest.fixture(scope="module")
def guarded():
    """A settled, an open and a released hold, each guard of theirs taken away."""
    engine = memory()
    unguarded(engine)
    with Session(engine) as session, session.begin():
        settled_and_open(session)
        fund(session, 100, ref="released")
        book = Book(session)
        book.hold(id_of("released"), BUYER, 100, now_s=NOW_S, expires_at_s=SETTLE_BY_S)
        book.release(id_of("released"), now_s=NOW_S)
        triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        for name in session.execute(text(triggers)).scalars().all():
            session.execute(text(f"DROP TRIGGER {name}"))
        assert check(session) == []
    yield engine
    engine.dispose()


@pytest.mark.parametrize(("statement", "sentence"), BROKEN)
def test_what_one_condition_sees_is_named(guarded, statement, sentence):
    with Session(guarded) as session:
        session.begin()
        for part in statement.split(";"):
            assert session.execute(text(part)).rowcount != 0
        said = [f"{violation.invariant}: {violation.detail}" for violation in check(session)]
        session.rollback()
    assert any(re.match(sentence, line) for line in said), said
