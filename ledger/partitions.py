"""Receipts by window on PostgreSQL: a table for each day of leases, made ahead of its time.

A receipt whose window has no table of its own goes to the default one, so that nothing depends on
the job that makes them. Tables are never dropped here: an old one can be detached and archived
whole by the operator. On SQLite there is one table, and nothing to do.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, Table, event, text

from ledger.database import Session, metadata
from ledger.models import ReceiptRow
from ledger.row_digest import window_of
from ledger.triggers import append_only_statements

__all__ = ["WINDOWS_AHEAD", "default_statements", "ensure_partitions", "is_partition"]

WINDOWS_AHEAD = 7
"""Days; the job that makes them may be late by as many."""

_TABLE = ReceiptRow.__tablename__
_DEFAULT = f"{_TABLE}_default"


def ensure_partitions(session: Session, now_s: int) -> int:
    """Make the tables of this window and the next WINDOWS_AHEAD; gives how many were made.

    A window that the default table has rows of keeps them there, and gets no table of its own.
    """
    if session.get_bind().dialect.name != "postgresql":
        return 0
    # two jobs at once would make the same table
    session.execute(text(f"LOCK TABLE {_DEFAULT} IN SHARE ROW EXCLUSIVE MODE"))
    first, made = window_of(now_s), 0
    for window in range(first, first + WINDOWS_AHEAD + 1):
        if not _is_taken(session, window):
            for statement in _statements(window):
                session.execute(text(statement))
            made += 1
    return made


def is_partition(table: str) -> bool:
    """Whether this is one window's table: the models know only the whole."""
    return table.startswith(f"{_TABLE}_")


def default_statements() -> list[str]:
    """The DDL of the default table, whose rows are guarded like the others'."""
    return [
        f"CREATE TABLE {_DEFAULT} PARTITION OF {_TABLE} DEFAULT",
        *append_only_statements(_DEFAULT, "postgresql"),
    ]


def _is_taken(session: Session, window: int) -> bool:
    exists = text("SELECT to_regclass(:name) IS NOT NULL")
    if session.execute(exists, {"name": _name(window)}).scalar_one():
        return True
    rows = text(f"SELECT EXISTS (SELECT 1 FROM {_DEFAULT} WHERE window_index = :window)")
    return bool(session.execute(rows, {"window": window}).scalar_one())


def _statements(window: int) -> Sequence[str]:
    name = _name(window)
    return [
        f"CREATE TABLE {name} PARTITION OF {_TABLE} FOR VALUES FROM ({window}) TO ({window + 1})",
        *append_only_statements(name, "postgresql"),
    ]


def _name(window: int) -> str:
    return f"{_TABLE}_w{window}"


def _create(_: Table, connection: Connection, **__: object) -> None:
    if connection.dialect.name == "postgresql":
        for statement in default_statements():
            connection.execute(text(statement))


event.listen(metadata.tables[_TABLE], "after_create", _create)
