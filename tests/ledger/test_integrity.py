"""Any value of the book's tables changed by hand is named, whatever guards were taken away."""

import pytest
from sqlalchemy import Boolean, text
from sqlalchemy.exc import IntegrityError

from ledger import integrity
from ledger.book import Book
from ledger.database import Session, metadata
from ledger.invariants import check
from ledger.log_check import check_log
from ledger.settle_window import mark_closed, settle_ready
from tests.ledger.world import (
    BUYER,
    MARKET,
    NOW_S,
    ORIGIN,
    SETTLE_BY_S,
    accept,
    fund,
    id_of,
    lease_of,
    leased_hold,
    receipt_of,
    unguarded,
    without_triggers,
)

TABLES = ("account", "transfer", "hold", "hold_closing", "lane", "receipt")
COLUMNS = [
    (f"ledger_{table}", column.name)
    for table in TABLES
    for column in metadata.tables[f"ledger_{table}"].columns
]


def violations(session):
    return [
        *check(session),
        *integrity.check(session, MARKET.peer_id),
        *check_log(session, MARKET.peer_id, ORIGIN),
    ]


@pytest.fixture
def book(engine):
    """Settled, open, grown and released holds; no trigger, no CHECK, no foreign key."""
    unguarded(engine)
    with Session(engine) as session, session.begin():
        settled, still_open = lease_of("a", "settled"), lease_of("b", "open")
        leased_hold(session, "settled", [settled])
        leased_hold(session, "open", [still_open, lease_of("c", "open")], nanos=400_000)
        leased_hold(session, "released", [])
        fund(session, 10_000, ref="more")
        Book(session).grow_hold(id_of("open"), 1, 500, now_s=NOW_S, expires_at_s=SETTLE_BY_S + 9)
        accept(session, receipt_of(settled, 1, 100, final=True))
        accept(session, receipt_of(still_open, 1, 100))
        Book(session).release(id_of("released"), now_s=NOW_S)
        mark_closed(session, id_of("settled"))
        assert len(settle_ready(session, now_s=NOW_S, limit=1)) == 1
        names = session.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'"))
        for name in names.scalars().all():
            session.execute(text(f"DROP TRIGGER {name}"))
        assert violations(session) == []
        yield session


def changed(column, value):
    """The least that can be wrong with a value: one off, one bit, one letter, or nothing at all."""
    if value is None:
        return b"\1" * 16 if column.type.python_type is bytes else 1
    if isinstance(column.type, Boolean):
        return not value
    if isinstance(value, str):
        return value[:-1] + chr(ord(value[-1]) ^ 1) if value else "x"
    return value + 1 if isinstance(value, int) else value[:-1] + bytes([value[-1] ^ 1])


@pytest.mark.parametrize(("table", "name"), COLUMNS, ids=lambda part: part)
def test_a_changed_value_is_named_in_every_row(book, table, name):
    column = metadata.tables[table].columns[name]
    rows = book.execute(text(f"SELECT rowid, {name} FROM {table}")).all()
    assert rows
    change = text(f"UPDATE {table} SET {name} = :value WHERE rowid = :row")
    for row, value in rows:
        with book.begin_nested() as point:
            try:
                book.execute(change, {"value": changed(column, value), "row": row})
            except IntegrityError:
                continue  # a key that another row has: refused
            assert violations(book), f"{table}.{name} was {value!r}"
            point.rollback()


@pytest.mark.parametrize("table", TABLES)
def test_a_row_that_is_gone_is_named(book, table):
    for row in book.execute(text(f"SELECT rowid FROM ledger_{table}")).scalars().all():
        with book.begin_nested() as point:
            book.execute(text(f"DELETE FROM ledger_{table} WHERE rowid = :row"), {"row": row})
            assert violations(book), row
            point.rollback()


@pytest.mark.parametrize("column", ["created_at_s", "amount_nanos"])
def test_the_first_of_many_pages_and_the_last(session, column, monkeypatch):
    """What is found does not depend on where a page ends."""
    monkeypatch.setattr(integrity, "ROWS_AT_ONCE", 3)
    fund(session, 1_000)
    for number in range(10):
        Book(session).hold(id_of(str(number)), BUYER, 10, now_s=NOW_S, expires_at_s=SETTLE_BY_S)
    assert integrity.check(session) == []
    without_triggers(session, "ledger_transfer")
    session.execute(text(f"UPDATE ledger_transfer SET {column} = {column} + 1"))
    assert len(integrity.check(session)) == 11
