"""The marketplace's database: who may write, and the one place that commits.

A request that writes runs inside one `transaction()`, which commits once at its end, before the
answer goes out; services only flush. Everything inside it happens in one thread: a transaction that
waited for a thread while holding SQLite's write lock could wait for itself.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ledger.database import Session, open_database, reading
from ledger.failpoint import reach
from marketplace.errors import Conflict, DatabaseUnavailable
from migrations.run import upgrade

__all__ = ["Database", "Session"]

log = logging.getLogger(__name__)


class Database:
    """One engine, and sessions over it."""

    def __init__(self, url: str) -> None:
        self._engine = open_database(url)
        self._reading = reading(self._engine)
        self._on_sqlite = self._engine.dialect.name == "sqlite"
        self._turn = threading.Lock() if self._on_sqlite else contextlib.nullcontext()
        """SQLite has one writer: threads that wait here get their turn at once; those that wait at
        the database poll for it."""

    def upgrade(self) -> None:
        """Bring the tables to the newest form."""
        upgrade(self._engine)

    @contextmanager
    def transaction(self, *, one_moment: bool = False) -> Iterator[Session]:
        """A session that writes; commits at the end, rolls back on any error.

        `one_moment`: all that it reads is as at its first statement, for what compares sums. On
        PostgreSQL it fails, and may be tried again, where others changed what it changes too.
        Raises DatabaseUnavailable, or Conflict where two requests made the same thing at once.
        """
        try:
            with (
                _telling_why(),
                self._turn,
                Session(self._engine, expire_on_commit=False) as session,
                session.begin(),
            ):
                if one_moment and not self._on_sqlite:
                    session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
                yield session
                reach("commit.before")
            reach("commit.after")
        except IntegrityError as error:
            raise Conflict("Another request was first.", hint="Send it again.") from error

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that only reads, and never waits for writers. Raises DatabaseUnavailable."""
        with _telling_why(), Session(self._reading, expire_on_commit=False) as session:
            yield session

    def ping(self) -> None:
        """Raise DatabaseUnavailable unless the database answers."""
        with self.reading() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


@contextmanager
def _telling_why() -> Iterator[None]:
    """The reason goes to the log; a client is only told that it may try again."""
    try:
        yield
    except OperationalError as error:
        log.error("the database failed: %s", error.orig)
        raise DatabaseUnavailable from error
    except PoolTimeout as error:
        log.error("no connection to the database was free: %s", error)
        raise DatabaseUnavailable from error
