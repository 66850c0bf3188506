"""Taking receipts: verified (both signatures, lease, order), logged and settled, each second.

Two processes hand in batches as a marketplace's endpoint does: signatures before the transaction,
one transaction a batch, and holds settled as they become ready. Beside it the naive way: one
receipt a transaction, one hold settled at a time. Every book is checked at the end.
"""

import statistics
import time
from collections.abc import Iterable, Sequence
from functools import partial
from multiprocessing.synchronize import Barrier

from benchmarks.ledger_load.book import (
    HOPS,
    NOW_S,
    RECEIPTS_PER_LEASE,
    SPAWN,
    database,
    fill,
)
from benchmarks.row import Row
from ledger.database import Session, open_database, reading
from ledger.invariants import check
from ledger.lanes import load_leases
from ledger.receipts import ReceiptStatus, accept_receipts, record_receipts, verify_receipts
from ledger.settle_window import SETTLED_AT_ONCE_MAX, settle_ready
from protocol.identity import PeerId

__all__ = ["rows"]

ROUNDS = 3
PROCESSES = 2
HOLDS = 500
"""For each process: a provider's batch has one receipt of every lease it has in these."""
NAIVE_HOLDS = 12
MARK = 5_000

_WORKLOAD = f"holds of {HOPS} hops, {RECEIPTS_PER_LEASE} receipts a lease"


def rows() -> Iterable[Row]:
    """Takes about three minutes on two idle cores, most of it to make leases and receipts."""
    for engine_name in ("postgresql", "sqlite"):
        fast = [_measure(engine_name, HOLDS, PROCESSES, naive=False) for _ in range(ROUNDS)]
        slow = [_measure(engine_name, NAIVE_HOLDS, 1, naive=True) for _ in range(ROUNDS)]
        mark = f">= {MARK} /s" if engine_name == "postgresql" else ""
        title = f"receipts verified, posted and logged, {engine_name}, fsync on"
        batches = f"{_WORKLOAD}, batches of {HOLDS}, {PROCESSES} processes"
        yield _row(title, batches, fast, "/s", mark)
        yield _row(f"{title}, row by row", f"{_WORKLOAD}, 1 process", slow, "/s")
        ratio = statistics.median(fast) / statistics.median(slow)
        yield Row(f"batches against row by row, {engine_name}", batches, ratio, "x")


def _row(figure: str, workload: str, values: Sequence[float], unit: str, mark: str = "") -> Row:
    spread = f"{min(values):.0f}-{max(values):.0f}"
    return Row(figure, workload, statistics.median(values), unit, mark, spread)


def _measure(engine_name: str, holds: int, processes: int, *, naive: bool) -> float:
    """Receipts a second of one round on a book of its own."""
    with database(engine_name) as url:
        start = SPAWN.Barrier(processes + 1)
        done = SPAWN.Barrier(processes + 1)
        counts = SPAWN.Array("q", processes)
        workers = [
            SPAWN.Process(target=_work, args=(url, holds, number, naive, start, done, counts))
            for number in range(processes)
        ]
        for worker in workers:
            worker.start()
        start.wait(600)
        began_s = time.monotonic()
        done.wait(600)
        took_s = time.monotonic() - began_s
        for worker in workers:
            worker.join(60)
            if worker.exitcode:
                raise RuntimeError("A process that handed in receipts has failed.")
        _check(url)
        return sum(counts) / took_s


def _work(
    url: str, holds: int, number: int, naive: bool, start: Barrier, done: Barrier, counts: list[int]
) -> None:
    engine = open_database(url)
    load = fill(engine, holds, f"process {number}")
    hand_in = _hand_in_singly if naive else _hand_in
    start.wait(600)
    for provider, batch in load.batches:
        hand_in(engine, provider, batch)
    while _settle(engine, 1 if naive else SETTLED_AT_ONCE_MAX):
        pass
    done.wait(600)
    counts[number] = load.receipt_count
    engine.dispose()


def _hand_in(engine: object, provider: PeerId, batch: Sequence[bytes]) -> None:
    with Session(reading(engine)) as session:
        verified = verify_receipts(batch, partial(load_leases, session), provider=provider)
    with Session(engine) as session, session.begin():
        outcomes = record_receipts(session, verified, now_s=NOW_S)
    assert all(outcome.status is ReceiptStatus.ACCEPTED for outcome in outcomes), outcomes[:3]


def _hand_in_singly(engine: object, provider: PeerId, batch: Sequence[bytes]) -> None:
    for encoded in batch:
        with Session(engine) as session, session.begin():
            (outcome,) = accept_receipts(session, [encoded], provider=provider, now_s=NOW_S)
        assert outcome.status is ReceiptStatus.ACCEPTED, outcome


def _settle(engine: object, limit: int) -> int:
    with Session(engine) as session, session.begin():
        return len(settle_ready(session, now_s=NOW_S, limit=limit))


def _check(url: str) -> None:
    engine = open_database(url)
    with Session(engine) as session, session.begin():
        violations = check(session)
    engine.dispose()
    if violations:
        raise RuntimeError(f"The book is not in order: {violations[:3]}")
