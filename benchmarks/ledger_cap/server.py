"""`piecework-market` as it is, with a stopwatch around what holds money.

It writes one JSON object a line to the file named by PIECEWORK_CAP_TIMES: `kind` and seconds.
"""

import functools
import os
import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ledger.book import Book
from marketplace.leases import endpoints

__all__ = ["TIMES", "main"]

TIMES = "PIECEWORK_CAP_TIMES"

P = ParamSpec("P")
T = TypeVar("T")


def main() -> None:
    """Wrap the two, then serve."""
    from marketplace.cli import main as serve

    path = os.environ[TIMES]
    lock = threading.Lock()
    with open(path, "a", buffering=1) as output:

        def note(kind: str, seconds: float) -> None:
            with lock:
                output.write(f'{{"kind": "{kind}", "seconds": {seconds:.6f}}}\n')

        endpoints.held_for = timed(endpoints.held_for, "handler", note)
        Book.hold = timed(Book.hold, "book", note)
        Book.grow_hold = timed(Book.grow_hold, "book", note)
        serve()


def timed(
    function: Callable[P, T], kind: str, note: Callable[[str, float], None]
) -> Callable[P, T]:
    """The function, which tells how long it took, well or badly."""

    @functools.wraps(function)
    def run(*arguments: P.args, **named: P.kwargs) -> T:
        began = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            note(kind, time.perf_counter() - began)

    return run


if __name__ == "__main__":
    main()
