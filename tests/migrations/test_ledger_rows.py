"""A book with everything in it, back to numbered transfers and forward again, on both engines."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from ledger.book import Book
from ledger.database import Session, open_database
from ledger.invariants import check
from ledger.settle_window import mark_closed, settle_ready
from migrations.run import downgrade, upgrade
from tests import postgres
from tests.ledger.world import (
    BUYER,
    NOW_S,
    SETTLE_BY_S,
    accept,
    id_of,
    lease_of,
    leased_hold,
    receipt_of,
)
from tests.postgres import both_engines

pytestmark = both_engines

BEFORE = "0003_replacements"
TABLES = ("account", "transfer", "hold", "hold_closing", "lane", "receipt")


@pytest.fixture
def database(engine_name, tmp_path) -> Iterator[Engine]:
    """Holds that are settled, released, grown and open, of several shards."""
    on_postgresql = engine_name == "postgresql"
    url = postgres.fresh("market", upgrade) if on_postgresql else f"sqlite:///{tmp_path / 'm.db'}"
    engine = open_database(url)
    upgrade(engine)
    with Session(engine) as session, session.begin():
        fill(session)
    yield engine
    engine.dispose()
    if on_postgresql:
        postgres.drop(url)


def fill(session: Session) -> None:
    book = Book(session)
    for name in ("settled", "open", "other"):
        lease = lease_of(f"lease of {name}", name)
        leased_hold(session, name, [lease])
        accept(session, receipt_of(lease, 1, 10), receipt_of(lease, 2, 20, final=name != "open"))
    leased_hold(session, "released", [])
    book.release(id_of("released"), now_s=NOW_S)
    for name in ("settled", "other"):
        mark_closed(session, id_of(name))
    assert len(settle_ready(session, now_s=NOW_S, limit=10)) == 2
    leased_hold(session, "waiting", [])
    book.hold(id_of("small"), BUYER, 7, now_s=NOW_S + 1, expires_at_s=SETTLE_BY_S)


def rows(engine: Engine, *tables: str) -> dict[str, list[dict[str, object]]]:
    with engine.connect() as connection:
        return {
            table: sorted(
                (
                    dict(row)
                    for row in connection.execute(text(f"SELECT * FROM ledger_{table}")).mappings()
                ),
                key=repr,
            )
            for table in tables
        }


def test_there_and_back_nothing_has_changed(database):
    before = rows(database, *TABLES)
    downgrade(database, BEFORE)
    upgrade(database)
    after = rows(database, *TABLES)
    for table in TABLES:
        assert after[table] == before[table], table
    with Session(database) as session, session.begin():
        assert check(session) == []


def test_the_version_before_has_numbers_and_one_account_of_each(database):
    downgrade(database, BEFORE)
    old = rows(database, "account", "transfer", "hold")
    assert {row["name"] for row in old["account"] if row["code"] in ("fee", "clearing_settle")} == {
        "fee:",
        "clearing_settle:",
    }
    numbers = {row["id"]: row for row in old["transfer"]}
    assert sorted(numbers) == list(range(1, len(numbers) + 1))
    for row in old["transfer"]:
        if row["pending_id"]:
            assert numbers[row["pending_id"]]["ref"] == row["ref"]
    for row in old["hold"]:
        assert numbers[row["transfer_id"]]["ref"] == bytes(row["hold_id"]).hex()
    debits = sum(row["debits_posted"] for row in old["account"])
    assert debits == sum(row["credits_posted"] for row in old["account"]) > 0


def test_the_book_goes_on_afterwards(database):
    downgrade(database, BEFORE)
    upgrade(database)
    with Session(database) as session, session.begin():
        late = SETTLE_BY_S + 1
        assert len(settle_ready(session, now_s=late, limit=10)) == 3
        leased_hold(session, "new", [lease_of("new lease", "new")])
        assert check(session) == []
