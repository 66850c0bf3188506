"""Whether the peer of a control connection still lives: pings, and when he is given up (D24).

A router that rebooted leaves a connection dead without a word: TCP would try for a quarter of an
hour. In the muxer's thread; one per connection.
"""

import math
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from transport.control.settings import ControlSettings

__all__ = ["Line", "Liveness"]


class Line(Protocol):
    """What lies below the muxer."""

    @property
    def heard_at_s(self) -> float:
        """When the last byte came, by trio's clock."""


class Liveness:
    """Owned by one muxer. `ping` and `give_up` (with why) raise nothing."""

    def __init__(
        self,
        settings: ControlSettings,
        line: Line,
        ping: Callable[[], Awaitable[None]],
        give_up: Callable[[str], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._line = line
        self._ping = ping
        self._give_up = give_up
        self._nursery: trio.Nursery | None = None
        self._is_expecting = False
        self._asked_at_s = -math.inf
        """When the first stream was opened of those since something was heard."""

    async def watch(self) -> None:
        """Ping a silent peer, and give it up after a while; until cancelled."""
        settings = self._settings
        async with trio.open_nursery() as self._nursery:
            self._begin_expecting()
            while True:
                await trio.sleep(settings.keepalive_s / 2)
                silent_s = trio.current_time() - self._line.heard_at_s
                if silent_s >= settings.idle_timeout_s:
                    await self._give_up(f"Nothing was heard for {silent_s:.0f} s.")
                elif silent_s >= settings.keepalive_s:
                    await self._ping()

    def expect_answer(self) -> None:
        """A stream was opened: whoever lives says something soon, be it to a ping."""
        if self._line.heard_at_s > self._asked_at_s:
            self._asked_at_s = trio.current_time()
        self._begin_expecting()

    def _begin_expecting(self) -> None:
        is_asked = self._line.heard_at_s <= self._asked_at_s
        if is_asked and self._nursery is not None and not self._is_expecting:
            self._is_expecting = True
            self._nursery.start_soon(self._expect_answer)

    async def _expect_answer(self) -> None:
        timeout_s = self._settings.answer_timeout_s
        while self._line.heard_at_s <= self._asked_at_s:
            waited_s = trio.current_time() - self._asked_at_s
            if waited_s >= timeout_s:
                reason = f"Nothing was heard for {timeout_s:g} s after a stream was opened."
                await self._give_up(reason)
                return
            if waited_s >= timeout_s / 2:
                await self._ping()
            await trio.sleep((timeout_s if waited_s >= timeout_s / 2 else timeout_s / 2) - waited_s)
        self._is_expecting = False
