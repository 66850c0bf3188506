"""Home hosts on loopback whose control plane is in memory, with relays that may lie."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from protocol.identity import KeyPair
from tests.transport.conftest import ECHO, echo
from tests.transport.hostile_pair import Session
from tests.transport.lying_relay import LyingRelay
from transport.address import Address
from transport.control.testing import FakeControl
from transport.home_host import HomeHost


class Victim:
    """Somebody who has nothing to do with any of it, and what is sent to him."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(("127.0.0.9", 0))
        self.address = self.socket.getsockname()

    def taken(self) -> list[bytes]:
        found = []
        with suppress(BlockingIOError):
            while True:
                found.append(self.socket.recv(65536))
        return found


class Network:
    """Home hosts whose control plane is in memory, and relays that lie."""

    def __init__(self) -> None:
        self.control = FakeControl()
        self.hosts: list[HomeHost] = []
        self.relays: list[LyingRelay] = []

    def relay(self, host: str = "127.0.0.1"):
        """Its UDP side, to be told what to lie about, and its control plane."""
        self.relays.append(LyingRelay(host=host))
        return self.relays[-1], self.relays[-1].control(self.control)

    async def home(self, *relays, listen_host: str = "127.0.0.1") -> HomeHost:
        async def make_control(key: KeyPair):
            return self.control.host(key, listens=False)

        host = await HomeHost.start(
            KeyPair.generate(),
            listen_host=listen_host,
            relays=[relay.addresses[0] for relay in relays],
            fast_lan=False,
            make_control=make_control,
        )
        host.set_handler(ECHO, echo)
        self.hosts.append(host)
        await host.wait_settled(5)
        return host

    async def close(self) -> None:
        for host in self.hosts:
            await host.close()
        for relay in self.relays:
            relay.close()


@asynccontextmanager
async def home_network() -> AsyncIterator[Network]:
    made = Network()
    try:
        yield made
    finally:
        await made.close()


async def whole(connection) -> None:
    session = Session(connection, seed=5)
    await session.reach(10)
    await session.stop()


def circuits_of(host: HomeHost):
    return [address for address in host.addresses if not isinstance(address, Address)]
