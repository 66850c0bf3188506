"""UPnP IGD through miniupnpc: asking the home router to open a UDP port.

The library blocks, so it runs in a thread; its objects never leave one call.
"""

import asyncio
from typing import Any, Final

from transport.errors import TimedOut
from transport.reach.nat_pmp import GatewayRefused, Mapped

__all__ = ["map_udp_port", "outside_address", "unmap_udp_port"]

DISCOVER_MS: Final = 1500
"""How long routers may take to answer the search; most do within 100 ms."""

DESCRIPTION: Final = "piecework"


async def map_udp_port(inside_port: int, lifetime_s: int) -> Mapped:
    """Raises TimedOut when no router answers, GatewayRefused when it says no."""
    return await asyncio.to_thread(_map, inside_port, lifetime_s)


async def unmap_udp_port(outside_port: int) -> None:
    """Raises TimedOut or GatewayRefused."""
    await asyncio.to_thread(_unmap, outside_port)


async def outside_address() -> str:
    """The router's own outside address, as it says. Raises TimedOut or GatewayRefused."""
    return await asyncio.to_thread(_outside)


def _find() -> Any:
    import miniupnpc

    upnp = miniupnpc.UPnP()
    upnp.discoverdelay = DISCOVER_MS
    try:
        if upnp.discover() == 0:
            raise TimedOut("No router answered the search for UPnP.")
        upnp.selectigd()
    except Exception as error:  # the library raises bare Exception with a text
        if isinstance(error, TimedOut):
            raise
        raise TimedOut(f"No router of UPnP could be used: {error}.") from error
    return upnp


def _map(inside_port: int, lifetime_s: int) -> Mapped:
    upnp = _find()
    try:
        upnp.addportmapping(
            inside_port, "UDP", upnp.lanaddr, inside_port, DESCRIPTION, "", lifetime_s
        )
        return Mapped(str(upnp.externalipaddress()), inside_port, lifetime_s)
    except Exception as error:
        raise GatewayRefused(f"The router opens no port: {error}.") from error


def _unmap(outside_port: int) -> None:
    upnp = _find()
    try:
        upnp.deleteportmapping(outside_port, "UDP")
    except Exception as error:
        raise GatewayRefused(f"The router does not close the port: {error}.") from error


def _outside() -> str:
    upnp = _find()
    try:
        return str(upnp.externalipaddress())
    except Exception as error:
        raise GatewayRefused(f"The router does not tell its outside address: {error}.") from error
