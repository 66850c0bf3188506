"""A database with sessions in it, from the version before replacements and back."""

import pytest
from sqlalchemy import Engine

from ledger.database import Session, open_database
from ledger.invariants import check
from migrations.run import downgrade, upgrade

BEFORE = "0002_market"
AFTER = "0003_replacements"
LEDGER = "0006_disputes"
"""The first one whose books `check` can read."""
HOLD, OTHER, MORE = "0b" * 16, "0c" * 16, "0d" * 16
"""Ids in hex: a hold's transfer has its own as ref."""
SESSIONS = f"""
INSERT INTO market_account VALUES ('ann', 'Ann', 1);
INSERT INTO ledger_account VALUES
    ('buyer_cash:ann', 'buyer_cash', 'ann', 1, 71, 0, 0, 90),
    ('clearing_settle:', 'clearing_settle', '', 1, 0, 0, 71, 0),
    ('processor_pending:', 'processor_pending', '', 0, 0, 90, 0, 0);
INSERT INTO ledger_transfer
    (debit, credit, amount_nanos, state, code, ref, created_at_s, expires_at_s) VALUES
    ('processor_pending:', 'buyer_cash:ann', 90, 'posted', 'topup', 'a', 1, NULL),
    ('buyer_cash:ann', 'clearing_settle:', 70, 'pending', 'hold', '{HOLD}', 2, 99),
    ('buyer_cash:ann', 'clearing_settle:', 1, 'pending', 'hold', '{OTHER}', 2, 99);
INSERT INTO ledger_hold VALUES
    (X'{HOLD}', 2, 'ann', 70, 60, 500, 99, 0, NULL),
    (X'{OTHER}', 3, 'ann', 1, 0, NULL, 99, 1, NULL);
INSERT INTO ledger_lane VALUES ('a lease', X'{HOLD}', 'provider', 'its envelope', 60, 99,
    0, 0, 0, 0, 0, 0, 0, 'in', 'out', 0, 0, 0, 0);
INSERT INTO market_quote VALUES ('quote of one', 'ann', 60, 'the terms', 'sixteen bytes id');
INSERT INTO market_session VALUES
    ('sixteen bytes id', 'ann', 'quote of one', 'd', X'{HOLD}', 70, 2, 99, NULL),
    ('another session', 'ann', 'quote of other', 'e', X'{OTHER}', 1, 2, 99, 3);
"""
"""Two sessions, one open; the quote of the other is forgotten."""


@pytest.fixture
def database(tmp_path):
    """As the version before has it, with money held in it."""
    engine = open_database(f"sqlite:///{tmp_path / 'market.db'}")
    upgrade(engine, BEFORE)
    with engine.begin() as connection:
        for statement in SESSIONS.split(";"):
            connection.exec_driver_sql(statement)
    yield engine
    engine.dispose()


def rows(engine: Engine, table: str) -> list[dict[str, object]]:
    with engine.connect() as connection:
        found = connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY 1, 2").mappings()
        return [dict(row) for row in found]


def test_every_session_keeps_its_hold_and_its_terms(database):
    before = rows(database, "market_session")
    upgrade(database, AFTER)
    holds = rows(database, "market_session_hold")
    moved = ("session_id", "hold_id", "amount_nanos", "request_digest", "settle_by_s")
    assert [{name: hold[name] for name in moved} for hold in holds] == [
        {name: session[name] for name in moved} for session in before
    ]
    assert {hold["epoch"] for hold in holds} == {0}
    assert [hold["created_at_s"] for hold in holds] == [2, 2]
    by_hold = {hold["hold_id"]: hold["terms"] for hold in holds}
    assert by_hold == {bytes.fromhex(HOLD): "the terms", bytes.fromhex(OTHER): None}
    after = rows(database, "market_session")
    assert after == [{name: session[name] for name in after[0]} for session in before]
    assert set(before[0]) - set(after[0]) == set(moved) - {"session_id"}


def test_watermarks_begin_in_the_first_epoch(database):
    upgrade(database, AFTER)
    assert [lane["epoch"] for lane in rows(database, "ledger_lane")] == [0]
    upgrade(database, LEDGER)
    with Session(database) as session, session.begin():
        assert check(session) == []


@pytest.mark.parametrize(
    "table", ["market_session", "ledger_lane", "ledger_hold", "ledger_account", "ledger_transfer"]
)
def test_down_again_everything_is_as_it_was(database, table):
    before = rows(database, table)
    upgrade(database, AFTER)
    downgrade(database, BEFORE)
    assert rows(database, table) == before


def test_a_replacements_hold_outlives_the_way_down(database):
    """Its session forgets it; the ledger does not."""
    upgrade(database, AFTER)
    with database.begin() as connection:
        for statement in (
            "UPDATE ledger_account SET debits_pending = 76 WHERE code = 'buyer_cash'",
            "UPDATE ledger_account SET credits_pending = 76 WHERE code = 'clearing_settle'",
            "INSERT INTO ledger_transfer"
            " (debit, credit, amount_nanos, state, code, ref, created_at_s, expires_at_s) VALUES"
            f" ('buyer_cash:ann', 'clearing_settle:', 5, 'pending', 'hold', '{MORE}', 3, 120)",
            f"INSERT INTO ledger_hold VALUES (X'{MORE}', 4, 'ann', 5, 0, NULL, 120, 0, NULL)",
            "INSERT INTO market_session_hold"
            f" SELECT session_id, 1, 'f', X'{MORE}', 5, 'new terms', 3, 120"
            " FROM market_session WHERE closed_at_s IS NULL",
        ):
            connection.exec_driver_sql(statement)
    downgrade(database, BEFORE)
    assert {session["hold_id"] for session in rows(database, "market_session")} == {
        bytes.fromhex(HOLD),
        bytes.fromhex(OTHER),
    }
    assert bytes.fromhex(MORE) in {hold["hold_id"] for hold in rows(database, "ledger_hold")}
    upgrade(database, LEDGER)
    with Session(database) as session, session.begin():
        assert check(session) == []
