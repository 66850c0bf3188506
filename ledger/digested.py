"""Tables whose rows carry a digest of themselves, kept in step by whatever writes them.

`DigestedBase` instead of `Base` is all that a table needs. An INSERT computes the digest with the
row; an UPDATE, by the ORM or in bulk, empties it, and every emptied one is computed anew from what
the database then says, before the session commits. So a writer can forget nothing: what is written
past SQLAlchemy alone (a text, a flipped byte, a hand) contradicts its digest, and `check` names it.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from sqlalchemy import (
    Boolean,
    Connection,
    Index,
    LargeBinary,
    Select,
    Table,
    Update,
    bindparam,
    event,
    select,
    update,
)
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import Mapper
from sqlmodel import Field

from ledger.database import Base, Session, metadata
from ledger.row_digest import DIGEST_BYTES, row_digest

__all__ = ["DigestedBase", "broken_rows", "covered", "digest_of", "digested", "renew"]

ROWS_AT_ONCE = 2_000
"""A few megabytes, however large a table is."""

_COLUMN = "row_digest"
_COVERED = "digest_covers"
_EMPTIED = "piecework_emptied_digests"


def _at_insert(context: DefaultExecutionContext) -> bytes:
    row: Mapping[str, Any] = context.get_current_parameters()  # type: ignore[no-untyped-call]
    return digest_of(context.current_column.table, row)


def _at_update(context: DefaultExecutionContext) -> None:
    """NULL until the transaction's end; noted with the connection, whose rows they are."""
    emptied = context.root_connection.info.setdefault(_EMPTIED, set())
    emptied.add(context.current_column.table)


class DigestedBase(Base):
    """Parent of tables whose rows have a digest.

    An UPDATE that touches nothing but what is not covered may say `row_digest=Row.row_digest` and
    so keep it; one that says so and touches more is found by `check`.
    """

    NOT_COVERED: ClassVar[frozenset[str]] = frozenset()
    """Columns that change too often for it: something else names them, or nothing hangs on them."""

    row_digest: bytes | None = Field(
        default=None,
        max_length=DIGEST_BYTES,
        sa_type=LargeBinary,
        sa_column_kwargs={"default": _at_insert, "onupdate": _at_update},
    )
    """`row_digest` of the covered columns; empty only within a transaction."""


def digested() -> list[Table]:
    """Every table known so far whose rows have a digest, by name."""
    return [table for _, table in sorted(metadata.tables.items()) if _COVERED in table.info]


def covered(table: Table) -> tuple[str, ...]:
    """The columns that its digest is of."""
    return tuple(table.info[_COVERED])


def digest_of(table: Table, row: Mapping[str, Any]) -> bytes:
    """What a row's digest must be; a column that is left out is NULL."""
    values = {name: _plain(table, name, row.get(name)) for name in covered(table)}
    return row_digest(table.name, values)


def broken_rows(session: Session, table: Table) -> Iterator[str]:
    """Every row whose digest is not what its columns come to, as `table key: why`."""
    renew(session)
    query = select(table).execution_options(yield_per=ROWS_AT_ONCE)
    for found in session.execute(query).mappings():
        row = dict(found)
        if row[_COLUMN] is None:
            yield f"{_name(table, row)} was written and has no digest"
        elif row[_COLUMN] != digest_of(table, row):
            yield f"{_name(table, row)} contradicts its digest"


def renew(session: Session) -> None:
    """Compute again what this session's updates have emptied; done before each commit."""
    session.flush()
    connection = session.connection()
    emptied = connection.info.pop(_EMPTIED, None)
    for table in sorted(emptied or (), key=lambda table: table.name):
        _renew_table(connection, table)


def _renew_table(connection: Connection, table: Table) -> None:
    """Others' emptied rows are not seen here: they are committed with their digest."""
    query, statement = _renewal(table)
    rows = [dict(row) for row in connection.execute(query).mappings()]
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    connection.execute(
        statement,
        [
            {"new_digest": digest_of(table, row), **{f"key_{key}": row[key] for key in keys}}
            for row in rows
        ],
    )


@functools.cache
def _renewal(table: Table) -> tuple[Select[Any], Update]:
    """Finds the emptied rows, and fills one: made once, for it takes longer than its execution."""
    statement = update(table).values({_COLUMN: bindparam("new_digest")})
    for key in table.primary_key:
        statement = statement.where(key == bindparam(f"key_{key.name}"))
    return select(table).where(table.c[_COLUMN].is_(None)), statement


def _plain(table: Table, name: str, value: Any) -> object:
    """As the column gives it back: an enumeration's member is its text, a 1 may be True."""
    if isinstance(table.c[name].type, Boolean) and value is not None:
        return bool(value)
    return str(value) if isinstance(value, str) else value


def _name(table: Table, row: Mapping[str, Any]) -> str:
    key = (row[column.name] for column in table.primary_key)
    parts = (part.hex() if isinstance(part, bytes) else str(part) for part in key)
    return f"{table.name} {':'.join(parts)}"


def _prepare(mapper: Mapper[Any], mapped: type[DigestedBase]) -> None:
    """Note which columns count, and index what is emptied: finding it must not read the table."""
    table = mapper.local_table
    assert isinstance(table, Table)
    counted = table.autoincrement_column  # known only after the INSERT; nothing refers to it
    left_out = {_COLUMN, *mapped.NOT_COVERED, *([] if counted is None else [counted.name])}
    assert left_out <= set(table.c.keys()), f"{table.name} has no such columns"
    table.info[_COVERED] = sorted(set(table.c.keys()) - left_out)
    is_empty = table.c[_COLUMN].is_(None)
    Index(
        f"ix_{table.name}_no_digest",
        *table.primary_key,
        sqlite_where=is_empty,
        postgresql_where=is_empty,
    )


event.listen(DigestedBase, "after_mapper_constructed", _prepare, propagate=True)
event.listen(Session, "before_commit", renew)
