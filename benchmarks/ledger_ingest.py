"""Taking receipts: verified (both signatures, lease, order), logged and settled, each second.

Three processes hand in batches as a marketplace's endpoint does: signatures before the transaction,
one transaction a batch, and holds settled as they become ready. Beside it the naive way: one
receipt a transaction, one hold settled at a time. Every book is checked at the end.
"""

import gc
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier

from benchmarks.ledger_load.book import (
    HOPS,
    NOW_S,
    RECEIPTS_PER_LEASE,
    SPAWN,
    database,
    fill,
)
from benchmarks.ledger_load.server_cpu import server_cpu_s
from benchmarks.row import Row
from ledger.database import Session, open_database, reading
from ledger.invariants import check
from ledger.lanes import load_leases
from ledger.receipts import ReceiptStatus, accept_receipts, record_receipts, verify_receipts
from ledger.settle_window import SETTLED_AT_ONCE_MAX, settle_ready
from protocol.identity import PeerId

__all__ = ["rows"]

ROUNDS = 3
PROCESSES = 3
"""One more than cores: while one waits for the disk, another verifies."""
HOLDS = 250
"""For each process: a provider's batch has one receipt of every lease it has in these."""
NAIVE_HOLDS = 12
MARK = 5_000
BARRIER_TIMEOUT_S = 300
"""Nothing waits for ever for a process that has failed."""

_WORKLOAD = f"holds of {HOPS} hops, {RECEIPTS_PER_LEASE} receipts a lease"


@dataclass(frozen=True, slots=True)
class _Round:
    """What one round on a book of its own came to. CPU in microseconds a receipt."""

    per_second: float
    client_us: float
    server_us: float


def rows() -> Iterable[Row]:
    """Takes about three minutes on two idle cores, most of it to make leases and receipts."""
    for engine_name in ("postgresql", "sqlite"):
        fast = [_measure(engine_name, HOLDS, PROCESSES, naive=False) for _ in range(ROUNDS)]
        slow = [_measure(engine_name, NAIVE_HOLDS, 1, naive=True) for _ in range(ROUNDS)]
        mark = f">= {MARK} /s" if engine_name == "postgresql" else ""
        title = f"receipts verified, posted and logged, {engine_name}, fsync on"
        batches = f"{_WORKLOAD}, batches of {HOLDS}, {PROCESSES} processes"
        singly = f"{_WORKLOAD}, 1 process"
        yield _row(title, batches, [each.per_second for each in fast], "/s", mark)
        yield _row(f"{title}, row by row", singly, [each.per_second for each in slow], "/s")
        ratio = _median(fast, "per_second") / _median(slow, "per_second")
        yield Row(f"batches against row by row, {engine_name}", batches, ratio, "x")
        for workload, rounds in ((batches, fast), (singly, slow)):
            how = "" if rounds is fast else ", row by row"
            clients = [each.client_us for each in rounds]
            yield _row(f"CPU a receipt, processes that take it, {engine_name}{how}", workload,
                       clients, "us")  # fmt: skip
            if engine_name == "postgresql":
                servers = [each.server_us for each in rounds]
                yield _row(f"CPU a receipt, database server{how}", workload, servers, "us")


def _median(rounds: Sequence[_Round], name: str) -> float:
    return statistics.median(getattr(each, name) for each in rounds)


def _row(figure: str, workload: str, values: Sequence[float], unit: str, mark: str = "") -> Row:
    spread = f"{min(values):.0f}-{max(values):.0f}"
    return Row(figure, workload, statistics.median(values), unit, mark, spread)


def _measure(engine_name: str, holds: int, processes: int, *, naive: bool) -> _Round:
    """One round, on a book of its own that is checked at its end."""
    with database(engine_name) as url:
        start = SPAWN.Barrier(processes + 1)
        done = SPAWN.Barrier(processes + 1)
        counts, cpu_s = SPAWN.Array("q", processes), SPAWN.Array("d", processes)
        workers = [
            SPAWN.Process(
                target=_work, args=(url, holds, number, naive, start, done, counts, cpu_s)
            )
            for number in range(processes)
        ]
        for worker in workers:
            worker.start()
        while start.n_waiting < processes:
            _check_alive(workers)
            time.sleep(0.05)
        server_before_s = server_cpu_s(url)
        start.wait(BARRIER_TIMEOUT_S)
        began_s = time.monotonic()
        done.wait(BARRIER_TIMEOUT_S)
        took_s = time.monotonic() - began_s
        server_s = server_cpu_s(url) - server_before_s
        for worker in workers:
            worker.join(60)
            _check_alive([worker])
        _check(url)
        total = sum(counts)
        return _Round(total / took_s, sum(cpu_s) / total * 1e6, server_s / total * 1e6)


def _check_alive(workers: Iterable[BaseProcess]) -> None:
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("A process that handed in receipts has failed.")


def _work(
    url: str,
    holds: int,
    number: int,
    naive: bool,
    start: Barrier,
    done: Barrier,
    counts: list[int],
    cpu_s: list[float],
) -> None:
    engine = open_database(url)
    load = fill(engine, holds, f"process {number}")
    hand_in = _hand_in_singly if naive else _hand_in
    # a server does so once it has started: what stays is not looked through again and again
    gc.collect()
    gc.freeze()
    counts[number] = load.receipt_count
    start.wait(BARRIER_TIMEOUT_S)
    began_s = time.process_time()
    for provider, batch in load.batches:
        hand_in(engine, provider, batch)
    while _settle(engine, 1 if naive else SETTLED_AT_ONCE_MAX):
        pass
    cpu_s[number] = time.process_time() - began_s
    done.wait(BARRIER_TIMEOUT_S)
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
