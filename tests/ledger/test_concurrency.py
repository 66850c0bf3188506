"""Spend never passes the balance, however many ask at once: a file database and real threads."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from ledger.book import Book
from ledger.database import Session
from ledger.errors import InsufficientFunds
from ledger.invariants import check
from ledger.log import Log
from ledger.receipts import ReceiptStatus
from ledger.settle_window import mark_closed, settle_ready
from tests.ledger.world import (
    BUYER,
    NOW_S,
    SETTLE_BY_S,
    accept,
    buyer,
    fund,
    id_of,
    lease_of,
    leased_hold,
    receipt_of,
)
from tests.postgres import both_engines

pytestmark = both_engines

THREADS = 32
PRICE = 1_000


def test_a_balance_for_137_of_1000_holds_serves_exactly_137(file_engine):
    with Session(file_engine) as session, session.begin():
        fund(session, 137 * PRICE + PRICE // 2)

    def ask(number: int) -> bool:
        try:
            with Session(file_engine) as session, session.begin():
                Book(session).hold(
                    id_of(str(number)), BUYER, PRICE, now_s=NOW_S, expires_at_s=SETTLE_BY_S
                )
        except InsufficientFunds:
            return False
        return True

    with ThreadPoolExecutor(THREADS) as pool:
        served = list(pool.map(ask, range(1_000)))
    assert sum(served) == 137
    with Session(file_engine) as session, session.begin():
        assert Book(session).balance(buyer()).available_nanos == PRICE // 2
        assert check(session) == []


def test_one_hold_asked_for_by_all_is_held_once(file_engine):
    with Session(file_engine) as session, session.begin():
        fund(session, 10 * PRICE)

    def ask(_: int) -> int | None:
        with Session(file_engine) as session, session.begin():
            return (
                Book(session)
                .hold(id_of("one"), BUYER, PRICE, now_s=NOW_S, expires_at_s=SETTLE_BY_S)
                .id
            )

    with ThreadPoolExecutor(THREADS) as pool:
        assert len(set(pool.map(ask, range(THREADS)))) == 1
    with Session(file_engine) as session, session.begin():
        assert Book(session).balance(buyer()).available_nanos == 9 * PRICE


def test_replays_from_all_sides_while_settling_pay_once(file_engine):
    leases = [lease_of(f"lease {number}", f"hold {number}") for number in range(16)]
    encoded = [receipt_of(lease, 1, 50, final=True) for lease in leases]
    with Session(file_engine) as session, session.begin():
        for number, lease in enumerate(leases):
            leased_hold(session, f"hold {number}", [lease])
            mark_closed(session, id_of(f"hold {number}"))
    done = threading.Event()
    settled = []

    def settle() -> None:
        while True:
            last = done.is_set()
            with Session(file_engine) as session, session.begin():
                settled.extend(settle_ready(session, now_s=NOW_S, limit=3))
            if last and len(settled) >= len(leases):
                return

    def submit(number: int) -> ReceiptStatus:
        with Session(file_engine) as session, session.begin():
            return accept(session, encoded[number % len(leases)])[0].status

    with ThreadPoolExecutor(THREADS) as pool:
        settler = pool.submit(settle)
        statuses = list(pool.map(submit, range(len(leases) * 10)))
        done.set()
        settler.result(timeout=60)
    assert statuses.count(ReceiptStatus.ACCEPTED) == len(leases)
    assert statuses.count(ReceiptStatus.DUPLICATE) == len(leases) * 9
    with Session(file_engine) as session, session.begin():
        assert Log(session).size == 2 * len(leases)
        assert check(session) == []


def test_four_processes_never_ask_a_server_for_more_connections_than_it_takes(file_engine):
    most, lock = 0, threading.Lock()

    def ask(_: int) -> None:
        nonlocal most
        with Session(file_engine) as session, session.begin():
            session.execute(text("SELECT 1"))
            with lock:
                most = max(most, file_engine.pool.checkedout())
            time.sleep(0.02)

    if file_engine.dialect.name == "sqlite":
        pytest.skip("a file has no limit")
    with ThreadPoolExecutor(40) as pool:
        list(pool.map(ask, range(120)))
    assert 1 < most <= 100 // 5
