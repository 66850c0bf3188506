"""What alembic runs to connect: `migrations.run` hands a connection over, the shell gives a URL."""

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection
from sqlmodel import AutoString

import marketplace.models  # noqa: F401 - all tables, the ledger's with them
from ledger.database import metadata, open_database
from ledger.partitions import is_partition
from migrations.run import migrating


def _render(kind: str, item: object, _: object) -> str | Literal[False]:
    """SQLModel's own name for a string would make every version import sqlmodel."""
    if kind == "type" and isinstance(item, AutoString):
        return f"sa.String({item.length or ''})"
    return False


def _include(name: str | None, kind: str, _: object) -> bool:
    """The models know a partitioned table as a whole; its parts come and go."""
    return not (kind == "table" and name is not None and is_partition(name))


_OPTIONS: dict[str, Any] = {
    "target_metadata": metadata,
    # SQLite cannot alter a constraint: the table is copied instead
    "render_as_batch": True,
    "compare_server_default": True,
    "render_item": _render,
    "include_name": _include,
}


def _migrate(connection: Connection) -> None:
    context.configure(connection=connection, **_OPTIONS)
    with context.begin_transaction():
        context.run_migrations()


def _run() -> None:
    url = context.config.get_main_option("sqlalchemy.url")
    if context.is_offline_mode():
        context.configure(url=url, literal_binds=True, **_OPTIONS)
        with context.begin_transaction():
            context.run_migrations()
        return
    connection = context.config.attributes.get("connection")
    if connection is not None:
        _migrate(connection)
        return
    assert url, "alembic.ini names a database"
    with migrating(open_database(url)) as own_connection:
        _migrate(own_connection)


_run()
