"""Transactions that overlap for certain: one is kept open until the others wait for it, or are done
without having waited.

What is raced are the rooms' own functions. PostgreSQL alone lets two write at once; on SQLite the
second waits before its first statement, so there is nothing to show.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text

from ledger.database import Session
from ledger.errors import LedgerError
from marketplace.db import Database
from marketplace.errors import MarketError

__all__ = ["in_transaction", "on_postgresql", "overlapping", "refusals"]

on_postgresql = pytest.mark.parametrize("engine_name", ["postgresql"], indirect=True)

BLOCKED_WITHIN_S = 10
ENDS_WITHIN_S = 30
"""PostgreSQL finds a deadlock after one second; nothing here takes longer than that."""


def overlapping(
    database: Database,
    held: Callable[[Session], Any],
    *works: Callable[[], Any],
    then: Callable[[Session], Any] | None = None,
) -> list[Any]:
    """What `held` gives and then what each of `works` gives, or the refusal that it raises.

    `held` runs in a transaction that commits only once each of `works`, in a thread of its own, is
    done or waits for a lock. Works begin one after the other, so that they queue in their order.
    `then` is what that transaction does last, while they wait.
    """
    with ThreadPoolExecutor(len(works)) as pool:
        with database.transaction() as session:
            first = held(session)
            begun: list[Future[Any]] = []
            for work in works:
                begun.append(pool.submit(_outcome, work))
                _until_all_wait(database, begun)
            if then is not None:
                then(session)
        return [first, *(future.result(ENDS_WITHIN_S) for future in begun)]


def in_transaction(database: Database, work: Callable[[Session], Any]) -> Callable[[], Any]:
    """`work` as a request does it: in one transaction that ends with it."""

    def run() -> Any:
        with database.transaction() as session:
            return work(session)

    return run


def refusals(outcomes: list[Any]) -> list[type[Exception]]:
    """What kinds of error there were, in order."""
    return [type(outcome) for outcome in outcomes if isinstance(outcome, Exception)]


def _outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (MarketError, LedgerError) as error:
        return error


def _until_all_wait(database: Database, begun: list[Future[Any]]) -> None:
    query = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    until = time.monotonic() + BLOCKED_WITHIN_S
    while any(not future.done() for future in begun):
        with database.reading() as session:
            waiting = session.execute(query).scalar_one()
        # asked for again: one that has ended meanwhile waits for nothing
        if waiting >= sum(not future.done() for future in begun):
            return
        assert time.monotonic() < until, "it neither waits for a lock nor ends"
        time.sleep(0.005)
