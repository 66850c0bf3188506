"""Whose turn it is: a few requests of one buyer at once, so that others are served beside him.

The book takes one buyer's holds one after another, for each must see what the one before it left.
Those that only wait for that, or for a search of routes, would take the threads and database
connections of everybody else, so they wait here, where waiting costs nothing.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from enum import Enum
from weakref import WeakValueDictionary

from marketplace.errors import MarketError

__all__ = ["TooManyAtOnce", "Turn", "Turns"]

AT_ONCE_MAX = 4
"""Of one buyer and kind in one process: while one is in the book, others check and sign."""
WAITING_MAX = 1_000
"""Of one buyer and kind, about ten seconds' worth: a client that waits longer has gone."""
RETRY_AFTER_S = 1


class Turn(Enum):
    """What a request is for. None waits for those of another kind."""

    QUOTE = "quote"
    BEGIN = "begin"
    GO_ON = "go_on"
    """Of a session under way, which must not wait for new ones."""


class TooManyAtOnce(MarketError):
    """More requests of one buyer wait than can be served before their clients give up."""

    status_code, code = 429, "too_many_at_once"

    def __init__(self, waiting: int) -> None:
        super().__init__(
            f"{waiting} requests of this account wait for their turn.",
            hint=f"Try again in {RETRY_AFTER_S} s, and send fewer at once.",
            details={"limit_source": "account_parallel"},
        )
        self.headers["Retry-After"] = str(RETRY_AFTER_S)


class _Gate:
    def __init__(self) -> None:
        self.places = asyncio.Semaphore(AT_ONCE_MAX)
        self.present = 0


class Turns:
    """First come, first served, each buyer for himself. For one event loop."""

    def __init__(self, *, waiting_max: int = WAITING_MAX) -> None:
        self._waiting_max = waiting_max
        self._gates: WeakValueDictionary[tuple[str, Turn], _Gate] = WeakValueDictionary()
        """Each lives as long as somebody is at it."""

    @contextlib.asynccontextmanager
    async def of(self, account_id: str, turn: Turn) -> AsyncIterator[None]:
        """Entered when it is this request's turn. Raises TooManyAtOnce."""
        gate = self._gates.setdefault((account_id, turn), _Gate())
        if gate.present >= AT_ONCE_MAX + self._waiting_max:
            raise TooManyAtOnce(gate.present - AT_ONCE_MAX)
        gate.present += 1
        try:
            async with gate.places:
                yield
        finally:
            gate.present -= 1
