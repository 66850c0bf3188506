"""The checks see what they are for: each rule is broken by hand and must be named."""

import pytest
from sqlalchemy import text

from ledger.invariants import check
from tests.ledger.world import only_sqlite, settled_and_open, unguarded

TRIGGERS = (
    "tr_ledger_transfer_no_update",
    "tr_ledger_transfer_no_delete",
    "tr_ledger_hold_closing_no_delete",
    "tr_ledger_receipt_no_update",
    "tr_ledger_receipt_no_delete",
    "tr_ledger_leaf_no_update",
    "tr_ledger_leaf_no_delete",
    "tr_ledger_lane_grows",
)


@pytest.fixture
def broken(engine):
    """A settled and an open hold, with every guard taken away."""
    from ledger.database import Session

    unguarded(engine)
    with Session(engine) as session, session.begin():
        settled_and_open(session)
        for trigger in TRIGGERS:
            session.execute(text(f"DROP TRIGGER {trigger}"))
        assert check(session) == []
        yield session


@only_sqlite
@pytest.mark.parametrize(
    ("rule", "statement"),
    [
        ("I1", "UPDATE ledger_account SET credits_posted = credits_posted + 1 WHERE code = 'fee'"),
        ("I1", "UPDATE ledger_account SET debits_pending = 0 WHERE code = 'buyer_cash'"),
        ("I2", "UPDATE ledger_transfer SET amount_nanos = amount_nanos + 1 WHERE code = 'topup'"),
        ("I2", "DELETE FROM ledger_transfer WHERE code = 'settle'"),
        ("I3", "UPDATE ledger_account SET credits_posted = 0 WHERE code = 'buyer_cash'"),
        (
            "I4",
            "DROP INDEX uq_ledger_transfer_resolve_once;"
            "INSERT INTO ledger_transfer"
            " (id, debit, credit, amount_nanos, state, pending_id, code, ref, created_at_s, digest)"
            " SELECT digest, debit, credit, 1, 'post', pending_id, 'post_hold', 'again', 0, digest"
            " FROM ledger_transfer WHERE state = 'post'",
        ),
        ("I4", "UPDATE ledger_hold SET charged_nanos = 0 WHERE charged_nanos IS NULL"),
        ("I4", "UPDATE ledger_hold SET charged_nanos = 1 WHERE charged_nanos IS NOT NULL"),
        ("I4", "UPDATE ledger_transfer SET amount_nanos = 1000000 WHERE state = 'post'"),
        ("I3", "UPDATE ledger_account SET owner = 'x' WHERE code = 'fee'"),
        ("I3", "UPDATE ledger_account SET no_overdraft = 0 WHERE code = 'fee'"),
        ("I4", "UPDATE ledger_hold SET closed = 1 - closed"),
        ("I4", "DELETE FROM ledger_hold_closing"),
        ("I4", "UPDATE ledger_hold SET parts = 2"),
        ("I4", "UPDATE ledger_hold SET buyer = 'x'"),
        ("I6", "UPDATE ledger_hold SET settle_by_s = settle_by_s + 1"),
        ("I6", "UPDATE ledger_hold SET fee_basis_points = NULL"),
        ("I5", "UPDATE ledger_lane SET amount_received_nanos = amount_received_nanos + 1"),
        ("I5", "UPDATE ledger_lane SET last_sequence = 9"),
        ("I5", "UPDATE ledger_lane SET settled = 1"),
        ("I5", "UPDATE ledger_lane SET amount_settled_nanos = 0"),
        ("I5", "DELETE FROM ledger_receipt"),
        ("I6", "UPDATE ledger_hold SET leased_nanos = leased_nanos + 1"),
        ("I6", "UPDATE ledger_lane SET amount_nanos_max = amount_nanos_max - 1"),
        ("I7", "UPDATE ledger_transfer SET amount_nanos = amount_nanos + 1 WHERE code = 'settle'"),
        ("I7", "UPDATE ledger_transfer SET ref = 'x' || ref WHERE code = 'settle'"),
        ("I7", "UPDATE ledger_lane SET amount_settled_nanos = 1"),
        ("I8", "DELETE FROM ledger_leaf WHERE leaf_index = 0"),
        ("I8", "DELETE FROM ledger_receipt"),
        ("I8", "UPDATE ledger_receipt SET leaf_index = 2 WHERE leaf_index = 0"),
        ("I8", "UPDATE ledger_log_head SET size = size + 1"),
        ("I12", "UPDATE ledger_account SET debits_posted = 0 WHERE code = 'clearing_settle'"),
    ],
)
def test_a_broken_rule_is_named(broken, rule, statement):
    for part in statement.split(";"):
        broken.execute(text(part))
    violations = check(broken)
    assert rule in {violation.invariant for violation in violations}
    assert all(violation.detail for violation in violations)


def test_an_empty_ledger_is_whole(session):
    assert check(session) == []
