"""How long a hold takes while others ask too: from the request to the commit, fsync on.

Four processes, as of a marketplace, each with requests of its own buyers. Every hold is another's,
so what they meet at is the disk and the shared accounts. Requests come at random at a fixed rate,
and a hold's time begins when its request came, not when its process was free; beside it the same
without pauses: how many there can be on two cores, and how long they then wait for a core.

The floor is the least that any book could do in a hold's place, by the driver alone: one UPDATE of
a row that nobody else touches, and its commit. Its rounds alternate with the holds'.
"""

import gc
import random
import statistics
import time
from collections.abc import Iterable, Sequence
from multiprocessing.synchronize import Barrier

from sqlalchemy import Engine, text

from benchmarks.ledger_load.book import NOW_S, SETTLE_BY_S, SPAWN, database, fund, id_of
from benchmarks.row import Row
from ledger.book import Book
from ledger.database import Session, open_database
from ledger.invariants import check

__all__ = ["rows"]

ROUNDS = 3
PROCESSES = 4
HOLDS = 600
"""Of each process."""
RATE_S = 100
"""Requests a second, all processes together: 8 million holds a day."""
BUYERS = 20
"""Of each process: two holds of one buyer wait for one another, as they must."""
AMOUNT_NANOS = 1_000_000
MARK_MS = 10
ROUND_TIMEOUT_S = 180
"""Nothing waits for ever for a process that has failed."""

Round = tuple[list[float], float]
"""Milliseconds of every hold of one round, and the seconds of the slowest process."""


def rows() -> Iterable[Row]:
    """Takes about nine minutes."""
    for engine_name in ("postgresql", "sqlite"):
        for rate_s in (RATE_S, 0):
            both = [
                [_measure(engine_name, rate_s, is_floor=is_floor) for is_floor in (True, False)]
                for _ in range(ROUNDS)
            ]
            for is_floor, rounds in zip((True, False), zip(*both, strict=True), strict=True):
                yield from _rows(engine_name, rate_s, rounds, is_floor=is_floor)


def _rows(
    engine_name: str, rate_s: int, rounds: Sequence[Round], *, is_floor: bool
) -> Iterable[Row]:
    name = "floor" if is_floor else "hold"
    pace = f"{rate_s} a second" if rate_s else "without pauses"
    workload = f"{PROCESSES} processes, {HOLDS} {name}s each, {pace}, {engine_name}, fsync on"
    is_marked = engine_name == "postgresql" and rate_s and not is_floor
    for share in (50, 99):
        values = [statistics.quantiles(took_ms, n=100)[share - 1] for took_ms, _ in rounds]
        mark = f"<= {MARK_MS} ms" if share == 99 and is_marked else ""
        yield Row(
            f"{name}, p{share}", workload, statistics.median(values), "ms", mark, _spread(values)
        )
    if not rate_s:
        rates = [PROCESSES * HOLDS / seconds for _, seconds in rounds]
        yield Row(f"{name}s", workload, statistics.median(rates), "/s", "", _spread(rates))


def _spread(values: list[float]) -> str:
    return f"{min(values):.1f}-{max(values):.1f}"


def _measure(engine_name: str, rate_s: int, *, is_floor: bool = False) -> Round:
    with database(engine_name) as url:
        if is_floor:
            _lay_floor(url)
        start, results = SPAWN.Barrier(PROCESSES), SPAWN.Queue()
        workers = [
            SPAWN.Process(target=_work, args=(url, number, rate_s, is_floor, start, results))
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


def _work(
    url: str, number: int, rate_s: int, is_floor: bool, start: Barrier, results: object
) -> None:
    engine = open_database(url)
    buyers = [f"buyer {number}.{index}" for index in range(BUYERS)]
    for buyer in buyers:
        fund(engine, buyer, HOLDS * AMOUNT_NANOS)
    move = _floor if is_floor else _hold
    # connections are open and statements are known before the first is timed
    for index in range(20):
        move(engine, f"{number} warm {index}", buyers[0])
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
        move(engine, f"{number} {index}", buyers[index % BUYERS])
        took_ms.append((time.perf_counter() - since_s) * 1000)
    results.put((took_ms, time.perf_counter() - began_s))
    engine.dispose()


def _hold(engine: Engine, name: str, buyer: str) -> None:
    with Session(engine) as session, session.begin():
        Book(session).hold(id_of(name), buyer, AMOUNT_NANOS, now_s=NOW_S, expires_at_s=SETTLE_BY_S)


def _floor(engine: Engine, name: str, buyer: str) -> None:
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        is_sqlite = engine.dialect.name == "sqlite"
        if is_sqlite:  # as `open_database` does; the PostgreSQL driver begins by itself
            cursor.execute("BEGIN IMMEDIATE")
        mark = "?" if is_sqlite else "%s"
        cursor.execute(f"UPDATE floor SET value = value + 1 WHERE name = {mark}", (buyer,))
        assert cursor.rowcount == 1, f"{name}: there is no row of '{buyer}'"
        connection.commit()
    finally:
        connection.close()


def _lay_floor(url: str) -> None:
    names = [f"buyer {number}.{index}" for number in range(PROCESSES) for index in range(BUYERS)]
    engine = open_database(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE floor (name TEXT PRIMARY KEY, value BIGINT)"))
        connection.execute(
            text("INSERT INTO floor VALUES (:name, 0)"), [{"name": name} for name in names]
        )
    engine.dispose()
