"""A port of the home router kept open for the data socket: NAT-PMP first, then UPnP.

A router behind another NAT (carrier-grade, or two routers in a row) opens a port that nobody
outside can reach; its outside address then is private, and the mapping is no candidate.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from protocol.errors import PieceworkError
from transport.reach import nat_pmp, upnp
from transport.reach.gateway import default_gateway
from transport.reach.nat_pmp import Mapped

__all__ = ["PortMapper", "PortMapping"]

LIFETIME_S: Final = 3600
"""What is asked for; renewed at half of what is granted. A node that dies leaves it this long."""

RETRY_S: Final = 600.0
"""A router without either protocol seldom learns one; but laptops move to other homes."""

LIFETIME_MIN_S: Final = 60
"""Whoever grants less is renewed as if he had granted this."""

log = logging.getLogger(__name__)

Ask = Callable[[int, int], Awaitable[Mapped]]
"""(inside port, lifetime) → what was opened; lifetime 0 closes."""


@dataclass(frozen=True, slots=True)
class PortMapping:
    """An open port, reachable from outside, and how it was got."""

    host: str
    port: int
    protocol: str


class PortMapper:
    """Owned by the composition root; one task from `start` to `close`."""

    def __init__(
        self, inside_port: int, on_change: Callable[[], None], ways: dict[str, Ask] | None = None
    ) -> None:
        """`ways` are tried in order, by name; the default ones ask the real router."""
        self.mapping: PortMapping | None = None
        self.reason = "not asked yet"
        """Why there is none; for `doctor`."""
        self._inside_port = inside_port
        self._on_change = on_change
        self._ways = ways or {"NAT-PMP": _by_nat_pmp, "UPnP": _by_upnp}
        self._way: str | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Close the port again, if one was opened; a router that is gone does not hold us up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._way is not None:
            try:
                await self._ways[self._way](self._inside_port, 0)
            except PieceworkError as error:
                log.info("the router's port was left open: %s", error)

    async def _keep(self) -> None:
        while True:
            mapped = await self._map()
            pause_s = RETRY_S if mapped is None else max(mapped.lifetime_s, LIFETIME_MIN_S) / 2
            await asyncio.sleep(pause_s)

    async def _map(self) -> Mapped | None:
        reasons = []
        for name, ask in self._ways.items():
            try:
                mapped = await ask(self._inside_port, LIFETIME_S)
            except PieceworkError as error:
                reasons.append(f"{name}: {error.message}")
                continue
            self._way = name
            self._set(name, mapped)
            return mapped
        self._way, self.reason = None, " ".join(reasons)
        self._change(None)
        return None

    def _set(self, name: str, mapped: Mapped) -> None:
        if _is_outside(mapped.host):
            self.reason = ""
            self._change(PortMapping(mapped.host, mapped.port, name))
        else:
            self.reason = (
                f"The router opened a port, but its own outside address is "
                f"'{mapped.host or 'unknown'}': another NAT stands before it."
            )
            self._change(None)

    def _change(self, mapping: PortMapping | None) -> None:
        if mapping != self.mapping:
            self.mapping = mapping
            log.info("port mapping: %s", mapping or self.reason)
            self._on_change()


def _is_outside(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_global


async def _by_nat_pmp(inside_port: int, lifetime_s: int) -> Mapped:
    gateway = await default_gateway()
    if gateway is None:
        raise nat_pmp.GatewayRefused("This machine has no default router.")
    return await nat_pmp.map_udp_port(gateway, inside_port, lifetime_s)


async def _by_upnp(inside_port: int, lifetime_s: int) -> Mapped:
    if lifetime_s:
        return await upnp.map_udp_port(inside_port, lifetime_s)
    await upnp.unmap_udp_port(inside_port)
    return Mapped("", 0, 0)
