"""Notices that this machine got other addresses: a cable, another Wi-Fi, a laptop that moved.

Paths that fell silent are noticed without it, two seconds later, and only where something is sent.
Addresses of containers and VPNs come and go without moving anybody, so they do not count.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from transport.interfaces import local_addresses

__all__ = ["InterfaceWatch", "physical_hosts"]

INTERVAL_S: Final = 1.0
"""A look costs a few system calls, under a millisecond."""

log = logging.getLogger(__name__)


def physical_hosts() -> frozenset[str]:
    """The literal addresses of interfaces that are up and no container's or VPN's."""
    return frozenset(local.host for local in local_addresses() if not local.is_virtual)


class InterfaceWatch:
    """One task from `start` to `close`. `on_change` when the addresses are others than before."""

    def __init__(
        self,
        on_change: Callable[[], None],
        *,
        read: Callable[[], frozenset[str]] = physical_hosts,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._on_change = on_change
        self._read = read
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        known = self._look(frozenset())
        while True:
            await asyncio.sleep(self._interval_s)
            now = self._look(known)
            if now != known:
                log.info("this machine's addresses changed: %d now", len(now))
                known = now
                self._on_change()

    def _look(self, otherwise: frozenset[str]) -> frozenset[str]:
        try:
            return self._read()
        except OSError as error:  # an interface that went while it was looked at
            log.debug("the interfaces could not be read: %s", error)
            return otherwise
