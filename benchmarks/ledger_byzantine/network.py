"""A virtual clock, streams that delay, and requests that are lost, doubled and reordered."""

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

__all__ = ["Loop", "Stream", "post"]

DELAY_S = (0.005, 0.2)
"""One way, between homes."""
LOST = 0.2
"""Of requests, and again of answers: far worse than any home."""
DOUBLED = 0.1
RETRY_S = (5.0, 60.0)


class Loop:
    """Runs what is due in order of time; equal times in order of asking."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = itertools.count()

    def after(self, delay_s: float, call: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._due, (self.now + delay_s, next(self._count), call, arguments))

    def run(self) -> None:
        """Until nothing is due any more."""
        while self._due:
            self.now, _, call, arguments = heapq.heappop(self._due)
            call(*arguments)


class Stream:
    """Delivers in order, late: what a QUIC stream promises until it breaks."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._free_at = 0.0

    def send(self, call: Callable[..., None], *arguments: Any) -> None:
        arrives = max(self._free_at, self._loop.now + self._loop.random.uniform(*DELAY_S))
        self._free_at = arrives
        self._loop.after(arrives - self._loop.now, call, *arguments)


def post(
    loop: Loop,
    serve: Callable[[], Any],
    answered: Callable[[Any], None],
    failed: Callable[[], None],
) -> None:
    """One HTTP request: it may never arrive, arrive twice, or its answer may be lost."""
    copies = 2 if loop.random.random() < DOUBLED else 1
    # decided in the order of asking, so that one seed is one run
    if loop.random.random() < LOST:
        loop.after(loop.random.uniform(*RETRY_S), failed)
        return
    is_lost = loop.random.random() < LOST

    def arrive(is_first: bool) -> None:
        answer = serve()
        if is_first and not is_lost:
            loop.after(loop.random.uniform(*DELAY_S), answered, answer)
        elif is_first:
            loop.after(loop.random.uniform(*RETRY_S), failed)

    for copy in range(copies):
        loop.after(loop.random.uniform(*DELAY_S) * (1 + 50 * copy), arrive, copy == 0)
