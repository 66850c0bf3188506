"""The application's role on PostgreSQL: it keeps books, and cannot rewrite them."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from ledger.errors import LedgerError
from ledger.invariants import check
from ledger.roles import statements
from ledger.settle_window import mark_closed, settle_ready
from ledger.triggers import APPEND_ONLY
from tests.ledger.world import (
    NOW_S,
    accept,
    database,
    id_of,
    lease_of,
    leased_hold,
    receipt_of,
    rolled_back,
)

ROLE = 'test "application"'


@pytest.fixture
def session():
    """A session that has become the role; what was made goes with the transaction."""
    with database("postgresql") as engine, rolled_back(engine) as session:
        quoted = ROLE.replace('"', '""')
        session.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        session.execute(text(f'CREATE ROLE "{quoted}"'))
        for statement in statements(ROLE):
            session.execute(text(statement))
        session.execute(text(f'SET LOCAL ROLE "{quoted}"'))
        yield session


def test_it_can_do_all_that_the_ledger_does(session):
    lease = lease_of("lease", "hold")
    leased_hold(session, "hold", [lease])
    accept(session, receipt_of(lease, 1, 10, final=True))
    mark_closed(session, id_of("hold"))
    assert len(settle_ready(session, now_s=NOW_S, limit=1)) == 1
    assert check(session) == []


@pytest.mark.parametrize("table", [*APPEND_ONLY, "ledger_receipt_default"])
@pytest.mark.parametrize(
    "change",
    ["DELETE FROM {0}", "TRUNCATE {0}", "ALTER TABLE {0} DISABLE TRIGGER ALL", "DROP TABLE {0}"],
)
def test_it_cannot_change_what_is_written(session, table, change):
    with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"):
        session.execute(text(change.format(table)))


@pytest.mark.parametrize("table", ["ledger_account", "ledger_hold", "ledger_lane"])
def test_working_rows_change_but_never_go(session, table):
    with pytest.raises(ProgrammingError, match="permission denied"):
        session.execute(text(f"DELETE FROM {table}"))


@pytest.mark.parametrize("role", ["", "x" * 64, "a\0b"])
def test_what_is_no_role_is_refused(role):
    with pytest.raises(LedgerError):
        statements(role)
