"""The settings and constraints money relies on: pragmas, BIGINT, names, triggers."""

import pytest
from sqlalchemy import BigInteger, Boolean, CheckConstraint, Integer, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateIndex, CreateTable

from ledger import triggers
from ledger.accounts import AccountCode, AccountRef
from ledger.database import Session, metadata, open_database, reading
from ledger.errors import LedgerError
from ledger.leaf import ReceiptLeaf
from ledger.log import Log, publish_checkpoint
from ledger.models import AccountRow
from ledger.settle_window import mark_closed, settle_ready
from tests.ledger.world import (
    MARKET,
    NOW_S,
    ORIGIN,
    accept,
    fund,
    id_of,
    lease_of,
    leased_hold,
    only_sqlite,
    receipt_of,
)

LEDGER_TABLES = [table for table in metadata.sorted_tables if table.name.startswith("ledger_")]

HERE = [f"ledger_{name}" for name in ("transfer", "receipt", "hold_closing", "leaf", "checkpoint")]
"""Append-only tables of the book; the log's further ones are tested beside what fills them."""


@pytest.fixture
def settled(session):
    """One of everything in the tables; a node row comes with the 256th leaf."""
    lease = lease_of("lease", "hold")
    leased_hold(session, "hold", [lease])
    Log(session).append([ReceiptLeaf(b"lease", b"receipt")] * 256)
    accept(session, receipt_of(lease, 1, 10, final=True))
    mark_closed(session, id_of("hold"))
    settle_ready(session, now_s=NOW_S, limit=1)
    publish_checkpoint(session, MARKET, ORIGIN, NOW_S)
    return session


@only_sqlite
class TestSQLite:
    def test_pragmas(self, file_engine):
        with file_engine.connect() as connection:
            values = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("foreign_keys", "journal_mode", "synchronous", "busy_timeout")
            }
        assert values["foreign_keys"] == 1
        assert values["journal_mode"] == "wal"
        assert values["synchronous"] == 2
        assert values["busy_timeout"] >= 1_000

    def test_a_transaction_begins_immediate(self, file_engine):
        statements = []
        with Session(file_engine) as one, one.begin():
            one.connection().connection.dbapi_connection.set_trace_callback(statements.append)
            one.execute(text("SELECT 1"))
        with Session(file_engine) as session, session.begin():
            assert session.connection().connection.dbapi_connection.in_transaction

    def test_a_reader_does_not_wait_for_a_writer(self, file_engine):
        with Session(file_engine) as writer, writer.begin():
            fund(writer, 100)
            with Session(reading(file_engine)) as reader, reader.begin():
                assert reader.execute(text("SELECT COUNT(*) FROM ledger_account")).scalar() == 0

    def test_foreign_keys_hold(self, session):
        statement = "UPDATE ledger_account SET name = 'other'"
        fund(session, 100)
        with pytest.raises(IntegrityError):
            session.execute(text(statement))


class TestColumns:
    @pytest.mark.parametrize("table", LEDGER_TABLES, ids=lambda table: table.name)
    def test_no_number_is_narrower_than_64_bits(self, table):
        for column in table.columns:
            kind = column.type.dialect_impl(postgresql.dialect())
            if isinstance(kind, Integer) and not isinstance(kind, Boolean):
                assert isinstance(column.type, BigInteger), column

    @pytest.mark.parametrize("table", LEDGER_TABLES, ids=lambda table: table.name)
    def test_no_floating_or_decimal_column(self, table):
        assert not [
            column
            for column in table.columns
            if type(column.type).__name__ in ("Float", "Numeric", "Double", "DECIMAL", "REAL")
        ]

    @pytest.mark.parametrize("table", LEDGER_TABLES, ids=lambda table: table.name)
    def test_every_check_has_a_name(self, table):
        for constraint in table.constraints:
            if isinstance(constraint, CheckConstraint):
                assert str(constraint.name).startswith(f"ck_{table.name}_")

    def test_large_numbers_survive(self, session):
        account = AccountRow(
            name="fee:x", code="fee", owner="x", no_overdraft=True, credits_posted=2**62
        )
        session.add(account)
        session.flush()
        session.expire(account)
        assert account.credits_posted == 2**62

    @pytest.mark.parametrize(
        "changes",
        [
            {"debits_posted": 1},
            {"debits_pending": 1},
            {"credits_posted": -1},
            {"credits_posted": 2**62 + 1},
        ],
    )
    def test_an_impossible_balance_is_refused(self, session, changes):
        session.add(AccountRow(name="fee:x", code="fee", owner="x", no_overdraft=True, **changes))
        with pytest.raises(IntegrityError):
            session.flush()

    @pytest.mark.parametrize("table", LEDGER_TABLES, ids=lambda table: table.name)
    def test_postgresql_ddl_compiles(self, table):
        dialect = postgresql.dialect()
        assert "BIGINT" in str(CreateTable(table).compile(dialect=dialect)) or table.name
        assert all(str(CreateIndex(index).compile(dialect=dialect)) for index in table.indexes)


class TestTriggers:
    @pytest.mark.parametrize("table", HERE)
    @pytest.mark.parametrize("change", ["UPDATE {0} SET {1} = {1}", "DELETE FROM {0}"])
    def test_what_is_immutable_stays_so(self, settled, table, change):
        column = next(iter(metadata.tables[table].columns)).name
        assert settled.execute(text(f"SELECT COUNT(*) FROM {table}")).scalar()
        with pytest.raises(IntegrityError, match=r"append-only|cannot be changed"):
            settled.execute(text(change.format(table, column)))

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE ledger_lane SET last_sequence = last_sequence - 1 WHERE last_sequence > 0",
            "UPDATE ledger_lane SET amount_received_nanos = 0",
            "UPDATE ledger_lane SET amount_settled_nanos = 0",
            "DELETE FROM ledger_lane",
        ],
    )
    def test_a_watermark_only_grows(self, settled, statement):
        with pytest.raises(IntegrityError, match=r"only grows|cannot be changed"):
            settled.execute(text(statement))

    def test_both_dialects_have_the_same_triggers(self):
        for table in (*triggers.APPEND_ONLY, "ledger_lane"):
            for dialect in ("sqlite", "postgresql"):
                created = [
                    statement.split()[2]
                    for statement in triggers.create_statements(table, dialect)
                    if statement.startswith("CREATE TRIGGER")
                ]
                assert created == triggers.trigger_names(table)
                dropped = triggers.drop_statements(table, dialect)
                assert len(dropped) == len(created)
        assert triggers.create_statements("ledger_account", "sqlite") == []
        assert triggers.trigger_names("ledger_account") == []


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_every_postgresql_url_means_the_driver_that_is_installed(scheme):
    engine = open_database(f"{scheme}://localhost/piecework")
    assert (engine.dialect.name, engine.dialect.driver) == ("postgresql", "psycopg")


def test_account_names():
    account = AccountRef(AccountCode.BUYER_CASH, "ann")
    assert account.name == str(account) == "buyer_cash:ann"
    with pytest.raises(LedgerError):
        AccountRef(AccountCode.BUYER_CASH, "x" * 129)


def test_only_assets_and_expenses_may_be_overdrawn():
    free = {code for code in AccountCode if not code.no_overdraft}
    assert free == {
        AccountCode.PROCESSOR_PENDING,
        AccountCode.PROCESSOR_AVAILABLE,
        AccountCode.BANK,
        AccountCode.PROCESSOR_FEES,
        AccountCode.CHARGEBACK_LOSS,
        AccountCode.GOODWILL,
    }
    assert not any(code.is_liability for code in free)
