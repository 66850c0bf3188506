"""How long a hold takes while others ask too: from the request to the commit, fsync on.

Four processes, each with requests of its own buyers one after another, as a marketplace's processes
have them. Every hold is another's, so what they meet at is the disk and the shared accounts.
"""

import statistics
import time
from collections.abc import Iterable
from multiprocessing.synchronize import Barrier

from benchmarks.ledger_load.book import NOW_S, SETTLE_BY_S, SPAWN, database, fund, id_of
from benchmarks.row import Row
from ledger.book import Book
from ledger.database import Session, open_database
from ledger.invariants import check

__all__ = ["rows"]

ROUNDS = 3
PROCESSES = 4
HOLDS = 1_000
"""Of each process."""
BUYERS = 20
"""Of each process: two holds of one buyer wait for one another, as they must."""
AMOUNT_NANOS = 1_000_000
MARK_MS = 10
ROUND_TIMEOUT_S = 180
"""Nothing waits for ever for a process that has failed."""


def rows() -> Iterable[Row]:
    """Takes about a minute."""
    for engine_name in ("postgresql", "sqlite"):
        rounds = [_measure(engine_name) for _ in range(ROUNDS)]
        workload = f"{PROCESSES} processes, {HOLDS} holds each, {engine_name}, fsync on"
        marks = {99: f"<= {MARK_MS} ms"} if engine_name == "postgresql" else {}
        for share in (50, 99):
            values = [statistics.quantiles(each, n=100)[share - 1] for each in rounds]
            spread = f"{min(values):.1f}-{max(values):.1f}"
            median = statistics.median(values)
            yield Row(f"hold, p{share}", workload, median, "ms", marks.get(share, ""), spread)


def _measure(engine_name: str) -> list[float]:
    """Milliseconds of every hold of one round."""
    with database(engine_name) as url:
        start, results = SPAWN.Barrier(PROCESSES), SPAWN.Queue()
        workers = [
            SPAWN.Process(target=_work, args=(url, number, start, results))
            for number in range(PROCESSES)
        ]
        for worker in workers:
            worker.start()
        took_ms = [value for _ in workers for value in results.get(timeout=ROUND_TIMEOUT_S)]
        for worker in workers:
            worker.join(60)
            if worker.exitcode != 0:
                raise RuntimeError("A process that held has failed.")
        engine = open_database(url)
        with Session(engine) as session, session.begin():
            violations = check(session)
        engine.dispose()
        if violations:
            raise RuntimeError(f"The book is not in order: {violations[:3]}")
        return took_ms


def _work(url: str, number: int, start: Barrier, results: object) -> None:
    engine = open_database(url)
    buyers = [f"buyer {number}.{index}" for index in range(BUYERS)]
    for buyer in buyers:
        fund(engine, buyer, HOLDS * AMOUNT_NANOS)
    # connections are open and statements are known before the first is timed
    for index in range(20):
        _hold(engine, f"{number} warm {index}", buyers[0])
    start.wait(120)
    took_ms = [_hold(engine, f"{number} {index}", buyers[index % BUYERS]) for index in range(HOLDS)]
    results.put(took_ms)
    engine.dispose()


def _hold(engine: object, name: str, buyer: str) -> float:
    began_s = time.perf_counter()
    with Session(engine) as session, session.begin():
        Book(session).hold(id_of(name), buyer, AMOUNT_NANOS, now_s=NOW_S, expires_at_s=SETTLE_BY_S)
    return (time.perf_counter() - began_s) * 1000
