"""Waiting for money that is in flight, first come first served.

A session holds the most that it may cost and gives back what it did not use. So a buyer whose
balance covers a request only once his other sessions have ended need not be refused: his requests
wait in line, one line a key, and the first of it asks again until it gets the money, or hears that
there will be none. Whoever comes while others wait goes behind them; only an answer that runs asks
before it stands in line, for the marketplace keeps back what it may need.

A buyer's holds go into the book one after another, so that few of them are asked for at once: more
would only hold up the answers that run, and other buyers.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from node.errors import PaymentRequired

__all__ = ["FUNDS_IN_FLIGHT", "FundsQueue"]

FUNDS_IN_FLIGHT = "funds_in_flight"
"""The marketplace's code for money that other sessions of the buyer hold for now."""

WAIT_MAX_S = 60.0
"""A client that waited for a minute without a first token has mostly gone; he is told to return."""
WAITING_MAX = 1024
"""Of one key. Each is an open request of a client: beyond that he is told to come back."""
WAITING_IN_ALL_MAX = 8192
ASKING_MAX = 4
"""Of one key at once: enough that the book is never idle while answers are on their way."""
RETRY_S = 0.1
RETRY_MAX_S = 1.0
"""Between two tries of who is first in line, doubling: a session is settled when its last receipts
are in, which takes about a second. An end of one of our own sessions is heard at once."""

T = TypeVar("T")


@dataclass(slots=True)
class _Line:
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(ASKING_MAX))
    """For those who have not been refused yet."""
    present: int = 0
    waiting: deque[asyncio.Event] = field(default_factory=deque)
    """One each; set when it is first."""
    urgent: int = 0
    """So many of them, at the front, are for answers that run already."""
    freed: asyncio.Event = field(default_factory=asyncio.Event)
    refused: PaymentRequired | None = None
    """What the last one heard; None while nobody waits."""


class FundsQueue:
    """Lines of one gateway, by key. For one event loop."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._present = 0

    @property
    def waiting(self) -> int:
        return sum(len(line.waiting) for line in self._lines.values())

    async def buy(
        self,
        key: str,
        attempt: Callable[[], Awaitable[T]],
        *,
        urgent: bool = False,
        wait_max_s: float = WAIT_MAX_S,
    ) -> T:
        """What `attempt` gives, now or when money has come back.

        `urgent`: an answer that runs asks at once, and goes before those that have not begun.
        `wait_max_s`: in line; an attempt under way is never given up, for it may have been granted.
        Raises what `attempt` raises; PaymentRequired of FUNDS_IN_FLIGHT after `wait_max_s`, or
        where too many wait.
        """
        with self._among(key, urgent=urgent) as line:
            if line.refused is None or urgent:
                async with contextlib.nullcontext() if urgent else line.gate:
                    # while it stood at the gate another may have been refused
                    if line.refused is None or urgent:
                        try:
                            return await attempt()
                        except PaymentRequired as error:
                            if error.code != FUNDS_IN_FLIGHT:
                                raise
                            line.refused = error
            return await self._wait(line, attempt, urgent=urgent, wait_max_s=wait_max_s)

    def freed(self, key: str) -> None:
        """A session of this key is over: whoever is first shall ask again now."""
        if line := self._lines.get(key):
            line.freed.set()

    async def _wait(
        self, line: _Line, attempt: Callable[[], Awaitable[T]], *, urgent: bool, wait_max_s: float
    ) -> T:
        until_s = asyncio.get_running_loop().time() + wait_max_s
        with self._in_line(line, urgent=urgent) as is_first:
            try:
                async with asyncio.timeout_at(until_s):
                    await is_first.wait()
            except TimeoutError:
                raise _refused(line) from None
            return await self._try(line, attempt, until_s)

    async def _try(self, line: _Line, attempt: Callable[[], Awaitable[T]], until_s: float) -> T:
        now_s, delay_s = asyncio.get_running_loop().time, RETRY_S
        while True:
            line.freed.clear()
            try:
                return await attempt()
            except PaymentRequired as error:
                line.refused = error
                if error.code != FUNDS_IN_FLIGHT or now_s() >= until_s:
                    raise
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(now_s() + delay_s, until_s)):
                    await line.freed.wait()
            delay_s = min(2 * delay_s, RETRY_MAX_S)

    @contextlib.contextmanager
    def _among(self, key: str, *, urgent: bool) -> Iterator[_Line]:
        """The key's line, which is there as long as somebody is in it."""
        line = self._lines.get(key) or _Line()
        is_full = line.present >= WAITING_MAX or self._present >= WAITING_IN_ALL_MAX
        if is_full and not urgent:  # answers that run are bounded by those that were let in
            raise _refused(line)
        self._lines[key] = line
        line.present += 1
        self._present += 1
        try:
            yield line
        finally:
            line.present -= 1
            self._present -= 1
            if not line.present:
                del self._lines[key]

    @contextlib.contextmanager
    def _in_line(self, line: _Line, *, urgent: bool) -> Iterator[asyncio.Event]:
        place = asyncio.Event()
        if urgent:
            line.waiting.insert(line.urgent, place)
            line.urgent += 1
        else:
            line.waiting.append(place)
        line.waiting[0].set()
        try:
            yield place
        finally:
            line.waiting.remove(place)
            line.urgent -= urgent
            if line.waiting:
                line.waiting[0].set()
            else:
                line.refused = None


def _refused(line: _Line) -> PaymentRequired:
    """What the last one heard; or, where nobody was refused yet, that too many are asking."""
    return line.refused or PaymentRequired(
        402, FUNDS_IN_FLIGHT, f"{line.present} requests of this key wait for money to be held.",
        hint="Try again when some of them have begun.",
    )  # fmt: skip
