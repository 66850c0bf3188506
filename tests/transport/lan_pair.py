"""Two hosts on loopback with the fast path between them, and a listener's peer done by hand."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from protocol.identity import KeyPair
from tests.transport.conftest import ECHO, echo
from transport.base import Connection, Stream
from transport.lan.fast_lan import FastLan
from transport.lan.settings import LanSettings
from transport.lan.tls import make_client_context
from transport.lan.wire import LAN_PROTOCOL, Offer, Want
from transport.quic.host import QuicHost
from transport.quic.settings import QuicSettings

__all__ = ["LanPair", "lan_pair", "raw_tls", "take_offer"]

LOOPBACK = "127.0.0.1"


@dataclass(slots=True)
class LanPair:
    here: QuicHost
    there: QuicHost
    fast_here: FastLan
    fast_there: FastLan
    connection: Connection

    async def open(self, protocol: str = ECHO) -> Stream:
        stream = await self.fast_here.open(self.connection, protocol)
        assert stream is not None, self.fast_here.verdicts()
        return stream


@asynccontextmanager
async def lan_pair(
    settings: LanSettings | None = None,
    quic: QuicSettings | None = None,
    *,
    listen_host: str = LOOPBACK,
) -> AsyncIterator[LanPair]:
    """The echo is served at `there`."""
    here, there = [
        await QuicHost.start(KeyPair.generate(), listen_host=LOOPBACK, settings=quic)
        for _ in range(2)
    ]
    fast_here = await FastLan.start(here, listen_host, settings=settings)
    fast_there = await FastLan.start(there, listen_host, settings=settings)
    there.set_handler(ECHO, echo)
    connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
    try:
        yield LanPair(here, there, fast_here, fast_there, connection)
    finally:
        for closable in (fast_here, fast_there, here, there):
            await closable.close()


async def take_offer(connection: Connection, count: int = 1) -> tuple[Stream, Offer]:
    """The control stream, which keeps the tickets good, and what the listener offered."""
    control = await connection.open_stream(LAN_PROTOCOL)
    await control.send(Want(count).encode())
    frame = await control.receive()
    assert frame is not None
    return control, Offer.decode(frame, hosts_max=16)


async def raw_tls(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A stranger's TLS connection, handshake done."""
    return await asyncio.open_connection(LOOPBACK, port, ssl=context(), server_hostname="")


context: Callable[[], ssl.SSLContext] = make_client_context
