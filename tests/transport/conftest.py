"""Hosts on loopback that are closed again, and the echo that most tests talk to."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from protocol.identity import KeyPair
from transport.base import Stream
from transport.quic.host import QuicHost
from transport.quic.settings import QuicSettings

ECHO = "/test/echo/1"

StartHost = Callable[..., Awaitable[QuicHost]]


async def echo(stream: Stream) -> None:
    while (frame := await stream.receive()) is not None:
        await stream.send(frame)


@pytest.fixture
async def start_host() -> AsyncIterator[StartHost]:
    """Starts hosts that serve the echo."""
    hosts: list[QuicHost] = []

    async def start(
        settings: QuicSettings | None = None,
        *,
        key: KeyPair | None = None,
        listen_host: str = "127.0.0.1",
    ) -> QuicHost:
        host = await QuicHost.start(
            key or KeyPair.generate(), listen_host=listen_host, settings=settings
        )
        host.set_handler(ECHO, echo)
        hosts.append(host)
        return host

    yield start
    for host in hosts:
        await host.close()
