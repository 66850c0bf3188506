"""How long a hold takes while others ask too: from the request to the commit, fsync on.

Four processes, as of a marketplace, each with requests of its own buyers. Every hold is another's,
so what they meet at is the disk and the shared accounts. Requests come at random at a fixed rate,
and a hold's time begins when its request came, not when its process was free; beside it the same
without pauses: how many there can be on two cores, and how long they then wait for a core.
"""

import gc
import random
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
RATE_S = 100
"""Requests a second, all processes together: 8 million holds a day."""
BUYERS = 20
"""Of each process: two holds of one buyer wait for one another, as they must."""
AMOUNT_NANOS = 1_000_000
MARK_MS = 10
ROUND_TIMEOUT_S = 180
"""Nothing waits for ever for a process that has failed."""


def rows() -> Iterable[Row]:
    """Takes about four minutes."""
    for engine_name in ("postgresql", "sqlite"):
        for rate_s in (RATE_S, 0):
            rounds = [_measure(engine_name, rate_s) for _ in range(ROUNDS)]
            yield from _rows(engine_name, rate_s, rounds)


def _rows(engine_name: str, rate_s: int, rounds: list[tuple[list[float], float]]) -> Iterable[Row]:
    pace = f"{rate_s} a second" if rate_s else "without pauses"
    workload = f"{PROCESSES} processes, {HOLDS} holds each, {pace}, {engine_name}, fsync on"
    is_marked = engine_name == "postgresql" and rate_s
    for share in (50, 99):
        values = [statistics.quantiles(took_ms, n=100)[share - 1] for took_ms, _ in rounds]
        mark = f"<= {MARK_MS} ms" if share == 99 and is_marked else ""
        yield Row(
            f"hold, p{share}", workload, statistics.median(values), "ms", mark, _spread(values)
        )
    if not rate_s:
        rates = [PROCESSES * HOLDS / seconds for _, seconds in rounds]
        yield Row("holds", workload, statistics.median(rates), "/s", "", _spread(rates))


def _spread(values: list[float]) -> str:
    return f"{min(values):.1f}-{max(values):.1f}"


def _measure(engine_name: str, rate_s: int) -> tuple[list[float], float]:
    """Milliseconds of every hold of one round, and the seconds of the slowest process."""
    with database(engine_name) as url:
        start, results = SPAWN.Barrier(PROCESSES), SPAWN.Queue()
        workers = [
            SPAWN.Process(target=_work, args=(url, number, rate_s, start, results))
            for number in range(PROCESSES)
        ]
        for worker in workers:
            worker.start()
        answers = [results.get(timeout=ROUND_TIMEOUT_S) for _ in workers]
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
        took_ms = [value for values, _ in answers for value in values]
        return took_ms, max(seconds for _, seconds in answers)


def _work(url: str, number: int, rate_s: int, start: Barrier, results: object) -> None:
    engine = open_database(url)
    buyers = [f"buyer {number}.{index}" for index in range(BUYERS)]
    for buyer in buyers:
        fund(engine, buyer, HOLDS * AMOUNT_NANOS)
    # connections are open and statements are known before the first is timed
    for index in range(20):
        _hold(engine, f"{number} warm {index}", buyers[0])
    arrivals = random.Random(number)
    gc.collect()
    gc.freeze()
    start.wait(120)
    began_s = due_s = time.perf_counter()
    took_ms = []
    for index in range(HOLDS):
        if rate_s:
            due_s += arrivals.expovariate(rate_s / PROCESSES)
            time.sleep(max(0.0, due_s - time.perf_counter()))
        since_s = due_s if rate_s else time.perf_counter()
        _hold(engine, f"{number} {index}", buyers[index % BUYERS])
        took_ms.append((time.perf_counter() - since_s) * 1000)
    results.put((took_ms, time.perf_counter() - began_s))
    engine.dispose()


def _hold(engine: object, name: str, buyer: str) -> None:
    with Session(engine) as session, session.begin():
        Book(session).hold(id_of(name), buyer, AMOUNT_NANOS, now_s=NOW_S, expires_at_s=SETTLE_BY_S)
