"""Receipts by window: a table a day on PostgreSQL, one table on SQLite, the same answers."""

import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from ledger.database import Session
from ledger.errors import TableBusy
from ledger.invariants import check
from ledger.partitions import WINDOWS_AHEAD, ensure_partitions, is_partition
from ledger.row_digest import window_of
from tests.ledger.world import accept, lease_of, leased_hold, receipt_of
from tests.postgres import both_engines

pytestmark = both_engines

LEASE = lease_of("lease", "hold")
AT_S = LEASE.issued_at_s


def test_the_next_windows_are_made_once(session):
    made = ensure_partitions(session, AT_S)
    on_postgresql = session.get_bind().dialect.name == "postgresql"
    assert made == (WINDOWS_AHEAD + 1 if on_postgresql else 0)
    assert ensure_partitions(session, AT_S) == 0
    assert ensure_partitions(session, AT_S + 86_400) == (1 if on_postgresql else 0)


@pytest.mark.parametrize("ahead", [True, False])
def test_a_receipt_is_kept_whether_its_window_has_a_table(session, ahead):
    if ahead:
        ensure_partitions(session, AT_S)
    leased_hold(session, "hold", [LEASE])
    encoded = receipt_of(LEASE, 1, 10)
    assert [accept(session, encoded)[0].status for _ in range(2)] == ["accepted", "duplicate"]
    windows = session.execute(text("SELECT window_index FROM ledger_receipt")).scalars().all()
    assert windows == [window_of(AT_S)]
    # the default table has this one's rows now: it is passed over, and no error
    ensure_partitions(session, AT_S)
    assert check(session) == []


@pytest.mark.parametrize("verb", ["UPDATE {0} SET sequence = 2", "DELETE FROM {0}"])
@pytest.mark.parametrize("part", ["default", f"w{window_of(AT_S)}"])
def test_each_part_is_guarded_like_the_whole(session, verb, part):
    if session.get_bind().dialect.name != "postgresql":
        pytest.skip("SQLite has the whole alone")
    ensure_partitions(session, AT_S)
    with pytest.raises(IntegrityError, match="cannot be changed"):
        session.execute(text(verb.format(f"ledger_receipt_{part}")))


def test_who_makes_parts_gives_way_to_who_takes_receipts(file_engine):
    """They would wait for one another: one has read receipts and stores more, while the other has
    asked for the tables. A receipt must not be turned away for that, nor wait for it."""
    if file_engine.dialect.name != "postgresql":
        pytest.skip("SQLite has the whole alone")
    late = lease_of("late", "hold")
    with Session(file_engine) as session, session.begin():
        leased_hold(session, "hold", [LEASE, late])
        accept(session, receipt_of(LEASE, 1, 10))

    def make() -> int:
        with Session(file_engine) as session, session.begin():
            return ensure_partitions(session, AT_S)

    with ThreadPoolExecutor(1) as pool, Session(file_engine) as session:
        with session.begin():
            assert accept(session, receipt_of(LEASE, 1, 10))[0].status == "duplicate"
            making = pool.submit(make)
            until_it_waits(file_engine, making)
            assert accept(session, receipt_of(late, 1, 10))[0].status == "accepted"
            assert isinstance(making.exception(10), TableBusy)
        assert make() == WINDOWS_AHEAD  # this window's receipts stay where they are


def until_it_waits(engine, future: Future[int]) -> None:
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    until = time.monotonic() + 10
    while not future.done():
        with Session(engine) as session:
            if session.execute(waiting).scalar_one():
                return
        assert time.monotonic() < until


def test_parts_are_told_from_tables():
    assert is_partition("ledger_receipt_default")
    assert is_partition("ledger_receipt_w20000")
    assert not is_partition("ledger_receipt")
