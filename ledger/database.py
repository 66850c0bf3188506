"""The database: one engine, one metadata, and the settings under which money is safe.

SQLite is the embedded default and PostgreSQL the same code. On SQLite every transaction begins
IMMEDIATE, so that a check and the write that follows it see the same state; a session that only
reads takes `reading(engine)` instead and never waits for writers.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from sqlalchemy import BigInteger, Engine, Integer, MetaData, Table, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import StaticPool
from sqlmodel import Field, Session, SQLModel, create_engine

__all__ = [
    "NAMING_CONVENTION",
    "Base",
    "BigInt",
    "BigIntOrNone",
    "NanosColumn",
    "RowId",
    "Session",
    "create_all",
    "insert_missing",
    "metadata",
    "open_database",
    "reading",
]

BUSY_TIMEOUT_MS = 30_000
"""How long a SQLite writer waits for another; a commit with fsync takes milliseconds."""

POOL_SIZE = 16
POOL_OVERFLOW = 48
"""FastAPI runs synchronous endpoints in up to 40 threads, each with one session."""
SERVER_POOL_OVERFLOW = 4
"""A server takes 100 connections unless it is told otherwise: four processes and their workers must
fit. More would not be faster; who finds none free waits, and nobody holds one while asking for
another."""

NAMING_CONVENTION: Mapping[str, str] = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Names every constraint, so that a migration can find it; a CHECK must be given its own name."""

_READ_ONLY = "piecework_read_only"


class Base(SQLModel):
    """Parent of every table of the marketplace's database, the ledger's and the others."""

    metadata: ClassVar[MetaData] = MetaData(naming_convention=dict(NAMING_CONVENTION))


metadata = Base.metadata

BigInt = Annotated[int, Field(sa_type=BigInteger)]
"""A counter or a time: BIGINT, because a plain `int` would be 32 bits on PostgreSQL.

SQLModel honours it only without a further `= Field(...)`; a key column is written out in full.
"""

BigIntOrNone = Annotated[int | None, Field(sa_type=BigInteger)]

NanosColumn = BigInt
"""An amount of money in nanos."""

RowId: Any = BigInteger().with_variant(Integer, "sqlite")
"""A surrogate key counted by the database; SQLite's INTEGER PRIMARY KEY is its 64-bit rowid."""


def open_database(url: str) -> Engine:
    """An engine for `sqlite:///path`, `sqlite://` (memory, one thread) or a PostgreSQL URL."""
    parsed = make_url(url)
    if parsed.drivername in ("postgresql", "postgres"):
        # plain URLs mean the one driver that is installed
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_size=POOL_SIZE, max_overflow=SERVER_POOL_OVERFLOW)
    if parsed.database in (None, "", ":memory:"):
        # every connection to :memory: is a database of its own, so there must be only one
        engine = create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
    else:
        engine = create_engine(url, pool_size=POOL_SIZE, max_overflow=POOL_OVERFLOW)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def reading(engine: Engine) -> Engine:
    """The same database and pool for sessions that write nothing: they take no write lock."""
    return engine.execution_options(**{_READ_ONLY: True})


def create_all(engine: Engine) -> None:
    """Create every table known so far; for tests. A real database is made by `migrations.run`."""
    for listener in ("ledger.triggers", "ledger.partitions"):  # for their tables' creation
        importlib.import_module(listener)
    Base.metadata.create_all(engine)


def insert_missing(session: Session, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert those rows whose key is not there yet; the others are left as they are."""
    if not rows:
        return
    on_sqlite = session.get_bind().dialect.name == "sqlite"
    insert = sqlite.insert if on_sqlite else postgresql.insert
    session.execute(insert(table).on_conflict_do_nothing(), rows)


def _prepare_sqlite(connection: DBAPIConnection, _: object) -> None:
    # the driver must not begin transactions behind our back; _begin_sqlite does
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "foreign_keys=ON",
        "journal_mode=WAL",
        "synchronous=FULL",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
