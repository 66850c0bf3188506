"""Digests follow whatever SQLAlchemy writes, and name whatever is written past it."""

import re
from pathlib import Path

import pytest
from sqlalchemy import insert, text, update
from sqlmodel import col

import marketplace.models  # noqa: F401 - every table
from ledger.database import Session, insert_missing, metadata
from ledger.digested import covered, digested
from ledger.integrity import check
from marketplace.accounts.models import BuyerRow
from marketplace.keys.models import BudgetRow
from marketplace.payouts.models import PayoutTermsRow
from tests.ledger.world import broken_digests
from tests.postgres import both_engines

ROOT = Path(__file__).parents[2]
ACCOUNT = metadata.tables["market_account"]


def account(name="ann", **more) -> BuyerRow:
    return BuyerRow(account_id=name, name=name.title(), created_at_s=1, **more)


@pytest.fixture
def committed(engine):
    """An engine over one committed account of somebody's, with terms and a budget."""
    with Session(engine) as session, session.begin():
        session.add(account())
        session.flush()
        session.add(
            PayoutTermsRow(account_id="ann", schedule="weekly", minimum_cents=5, changed_at_s=1)
        )
        session.add(BudgetRow(budget_id="b", reset="day"))
    return engine


def in_one_transaction(engine, *work) -> list[str]:
    with Session(engine, expire_on_commit=False) as session, session.begin():
        for each in work:
            each(session)
    with Session(engine) as session:
        return broken_digests(session)


def assign(session):
    session.get(PayoutTermsRow, "ann").minimum_cents = 7


def in_bulk(session):
    session.execute(update(PayoutTermsRow).values(minimum_cents=8, exit_at_s=9))


def past_the_session(session):
    session.connection().execute(update(metadata.tables["market_payout_terms"]).values(exit_at_s=3))


def add_core(session):
    rows = [{"account_id": name, "name": "x", "created_at_s": 2} for name in ("bob", "cay")]
    session.execute(insert(ACCOUNT), rows)
    insert_missing(session, ACCOUNT, [{"account_id": "bob", "name": "y", "created_at_s": 3}])


@both_engines
class TestWriting:
    @pytest.mark.parametrize(
        "work",
        [
            [assign],
            [in_bulk],
            [past_the_session],
            [add_core],
            [assign, in_bulk, past_the_session],
            [in_bulk, assign],
            [add_core, lambda session: session.execute(update(BuyerRow).values(name="z"))],
        ],
    )
    def test_digests_follow(self, committed, work):
        assert in_one_transaction(committed, *work) == []

    def test_in_a_savepoint(self, committed):
        def nested(session):
            with session.begin_nested():
                in_bulk(session)
            with session.begin_nested() as point:
                assign(session)
                session.flush()
                point.rollback()

        assert in_one_transaction(committed, nested) == []

    def test_what_was_rolled_back_changes_nothing(self, committed):
        with Session(committed) as session:
            in_bulk(session)
            session.rollback()
        assert in_one_transaction(committed, add_core) == []

    def test_a_stale_object_does_not_spoil_it(self, committed):
        """Written by two, the one with an old copy: the digest is of what the database has."""
        with Session(committed, expire_on_commit=False) as slow:
            row = slow.get(PayoutTermsRow, "ann")
            slow.rollback()
            slow.expunge(row)
            in_one_transaction(committed, in_bulk)
            slow.add(row)
            row.schedule = "manual"
            slow.commit()
        with Session(committed) as session:
            assert broken_digests(session) == []
            assert session.get(PayoutTermsRow, "ann").exit_at_s == 9

    def test_what_is_not_covered_may_keep_it(self, committed):
        def spend(session):
            kept = {"row_digest": BudgetRow.row_digest}
            session.execute(update(BudgetRow).values(spent_nanos=5, **kept))

        assert in_one_transaction(committed, spend) == []

    def test_keeping_it_wrongly_is_found(self, committed):
        def cheat(session):
            kept = {"row_digest": BudgetRow.row_digest}
            session.execute(update(BudgetRow).values(limit_nanos=5, **kept))

        assert in_one_transaction(committed, cheat) == ["market_budget b contradicts its digest"]

    @pytest.mark.parametrize(
        ("statement", "said"),
        [
            ("UPDATE market_account SET name = 'eve'", "contradicts its digest"),
            ("UPDATE market_account SET row_digest = NULL", "was written and has no digest"),
        ],
    )
    def test_what_is_written_past_sqlalchemy_is_named(self, committed, statement, said):
        with committed.begin() as connection:
            connection.execute(text(statement))
        with Session(committed) as session:
            assert broken_digests(session) == [f"market_account ann {said}"]
            assert [found.detail for found in check(session)] == broken_digests(session)

    def test_within_a_transaction_the_check_sees_what_was_written(self, committed):
        with Session(committed) as session, session.begin():
            session.execute(
                update(BuyerRow).where(col(BuyerRow.account_id) == "ann").values(name="x")
            )
            assert broken_digests(session) == []


class TestTables:
    def test_what_is_covered(self):
        assert covered(ACCOUNT) == ("account_id", "created_at_s", "name")
        assert "id" not in covered(metadata.tables["market_freeze"])

    def test_nobody_writes_them_as_text(self):
        """What a text writes, no digest follows."""
        names = "|".join(table.name for table in digested())
        written = re.compile(rf"(UPDATE|INSERT INTO|COPY)\s+({names})\b", re.IGNORECASE)
        sources = [
            path for room in ("ledger", "marketplace") for path in (ROOT / room).rglob("*.py")
        ]
        assert not [str(path) for path in sources if written.search(path.read_text())]
