"""Data of version 0012: each row's digest, computed from the row as it stands."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Connection

from ledger.row_digest import row_digest
from ledger.triggers import APPEND_ONLY, create_statements, drop_statements

__all__ = ["write_digests"]

ROWS_AT_ONCE = 1_000


def write_digests(name: str, keys: Sequence[str], not_covered: Collection[str]) -> None:
    """Give every row of a table its digest, if it has any; its guards stand aside meanwhile.

    A later version that adds a column to such a table calls this again: the digest is of all
    columns but `not_covered`.
    """
    connection = op.get_bind()
    if connection.execute(sa.text(f"SELECT 1 FROM {name} LIMIT 1")).first() is None:
        return
    table = sa.Table(name, sa.MetaData(), autoload_with=connection)
    covered = sorted(set(table.c.keys()) - {"row_digest", *not_covered})
    guards = name in APPEND_ONLY
    _execute(drop_statements(name, connection.dialect.name) if guards else [])
    statement = sa.update(table).values(row_digest=sa.bindparam("new_digest"))
    for key in keys:
        statement = statement.where(table.c[key] == sa.bindparam(f"key_{key}"))
    for rows in _batches(connection, table, keys):
        changes = []
        for row in rows:
            values = {column: row[column] for column in covered}
            change = {f"key_{key}": row[key] for key in keys}
            changes.append({"new_digest": row_digest(name, values), **change})
        connection.execute(statement, changes)
    _execute(create_statements(name, connection.dialect.name) if guards else [])


def _batches(
    connection: Connection, table: sa.Table, keys: Sequence[str]
) -> Iterator[list[dict[str, Any]]]:
    """In the order of their keys: what was written already is not met again."""
    columns = [table.c[key] for key in keys]
    query = sa.select(table).order_by(*columns).limit(ROWS_AT_ONCE)
    rows = [dict(row) for row in connection.execute(query).mappings()]
    while rows:
        yield rows
        last = [sa.literal(rows[-1][key], table.c[key].type) for key in keys]
        further = query.where(sa.tuple_(*columns) > sa.tuple_(*last))
        rows = [dict(row) for row in connection.execute(further).mappings()]


def _execute(statements: Sequence[str]) -> None:
    for statement in statements:
        op.execute(statement)
