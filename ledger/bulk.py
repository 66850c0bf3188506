"""Many rows in one statement: COPY and UPDATE … FROM on PostgreSQL, executemany on SQLite.

A statement a row costs more than the row: on PostgreSQL COPY takes a tenth of the time of INSERTs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, Column, ColumnElement, Table, any_, cast, insert, literal, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError, OperationalError

from ledger.database import Session

__all__ = ["add_to_rows", "insert_rows", "is_one_of", "type_of", "update_rows"]

_COPY_FROM_ROWS = 8
"""Below it one INSERT is as fast."""

_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]
_COPY_TYPES = {"BIGINT": "int8", "BOOLEAN": "bool", "BYTEA": "bytea", "TEXT": "text"}


def is_one_of(session: Session, column: Column[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    """`column IN values`; on PostgreSQL one array, which is parsed far faster than as many words.

    On SQLite the caller keeps to ROWS_PER_QUERY values.
    """
    if session.get_bind().dialect.name != "postgresql":
        return column.in_(values)
    array = _array_text(values, str(column.type.compile(dialect=_POSTGRESQL)))
    return column == any_(cast(literal(array), ARRAY(column.type)))


def insert_rows(session: Session, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert `rows`, which all have the same columns. Raises what INSERT does."""
    if not rows:
        return
    if session.get_bind().dialect.name != "postgresql" or len(rows) < _COPY_FROM_ROWS:
        session.execute(insert(table), rows)
        return
    import psycopg

    session.flush()
    names = list(rows[0])
    columns = ", ".join(f'"{name}"' for name in names)
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    statement = f"COPY {table.name} ({columns}) FROM STDIN (FORMAT BINARY)"
    try:
        with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            copy.set_types([_COPY_TYPES[type_of(table, name)] for name in names])
            for row in rows:
                copy.write_row([row[name] for name in names])
    except psycopg.IntegrityError as error:
        # as SQLAlchemy gives it, for whoever catches
        raise IntegrityError(statement, None, error) from error
    except psycopg.OperationalError as error:
        raise OperationalError(statement, None, error) from error


def update_rows(
    session: Session, table: Table, key: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Set the columns that `rows` name in the rows with these keys; the caller has locked them."""
    _change(session, table, key, rows, "{value}")


def add_to_rows(
    session: Session, table: Table, key: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Add to the columns that `rows` name, in the rows with these keys; all are locked."""
    _change(session, table, key, rows, "{column} + {value}")


def _change(
    session: Session, table: Table, key: str, rows: Sequence[Mapping[str, Any]], becomes: str
) -> None:
    if not rows:
        return
    names = [name for name in rows[0] if name != key]
    if session.get_bind().dialect.name == "postgresql":
        columns = [key, *names]
        kinds = {name: type_of(table, name) for name in columns}
        arrays = ", ".join(f"CAST(:{name} AS {kinds[name]}[])" for name in columns)
        sets = (
            f"{name} = {becomes.format(column=f't.{name}', value=f'v.{name}')}" for name in names
        )
        statement = (
            f"UPDATE {table.name} t SET {', '.join(sets)}"
            f" FROM unnest({arrays}) AS v({', '.join(columns)}) WHERE t.{key} = v.{key}"
        )
        values = {name: _array_text([row[name] for row in rows], kinds[name]) for name in columns}
        session.execute(text(statement), values)
        return
    sets = (f"{name} = {becomes.format(column=name, value=f':{name}')}" for name in names)
    statement = f"UPDATE {table.name} SET {', '.join(sets)} WHERE {key} = :{key}"
    session.execute(text(statement), [dict(row) for row in rows])


def _array_text(values: Sequence[Any], kind: str) -> str:
    """A PostgreSQL array as it is written; the driver takes ten times as long to make one."""
    if kind == "BYTEA":
        return "{" + ",".join([f'"\\\\x{value.hex()}"' for value in values]) + "}"
    if kind in ("BIGINT", "BOOLEAN"):
        return "{" + ",".join([str(value) for value in values]) + "}"
    return "{" + ",".join([_quoted(value) for value in values]) + "}"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def type_of(table: Table, name: str) -> str:
    """BIGINT, BOOLEAN or BYTEA; everything else here is TEXT."""
    kind = str(table.c[name].type.compile(dialect=_POSTGRESQL))
    return kind if kind in _COPY_TYPES else "TEXT"
