"""Receipts by window on PostgreSQL: a table for each day of leases, made ahead of its time.

A receipt whose window has no table of its own goes to the default one, so that nothing depends on
the job that makes them. Tables are never dropped here: an old one can be detached and archived
whole by the operator. On SQLite there is one table, and nothing to do.

PostgreSQL lets nobody read or write receipts while their table gets another part. Whoever makes
parts gives way: a transaction that takes receipts never waits long for it, nor dies of it.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, Table, event, text
from sqlalchemy.exc import OperationalError

from ledger.database import Session, metadata
from ledger.errors import TableBusy
from ledger.models import ReceiptRow
from ledger.row_digest import window_of
from ledger.triggers import append_only_statements

__all__ = ["WINDOWS_AHEAD", "default_statements", "ensure_partitions", "is_partition"]

WINDOWS_AHEAD = 7
"""Days; the job that makes them may be late by as many."""

LOCK_TIMEOUT_MS = 100
"""What comes later waits behind who asks for the whole table, so it is asked for briefly; and far
less than the second after which PostgreSQL ends one of those that wait for each other."""

_TABLE = ReceiptRow.__tablename__
_DEFAULT = f"{_TABLE}_default"


def ensure_partitions(session: Session, now_s: int) -> int:
    """Make the tables of this window and the next WINDOWS_AHEAD; gives how many were made.

    A window that the default table has rows of keeps them there, and gets no table of its own.
    Raises TableBusy while others use receipts: nothing was made, and it may be tried again.
    """
    if session.get_bind().dialect.name != "postgresql":
        return 0
    _lock_whole(session)
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


def _lock_whole(session: Session) -> None:
    """The table and its parts in the order in which all others lock them: the whole comes first.

    Taken part by part, the default first, it would wait for one that inserts and waits for it.
    """
    try:
        with session.begin_nested():
            session.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
            session.execute(text(f"LOCK TABLE {_TABLE} IN ACCESS EXCLUSIVE MODE"))
    except OperationalError as error:
        raise TableBusy(_TABLE) from error


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
