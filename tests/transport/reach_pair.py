"""Nodes that reach each other by a relay: data sockets on loopback, control plane in memory."""

import asyncio
from collections.abc import Sequence

from protocol.identity import KeyPair
from tests.transport.conftest import ECHO, echo
from tests.transport.home_relay import HomeRelay
from transport.address import CircuitAddress
from transport.base import Stream
from transport.control.testing import FakeControl, FakeControlHost
from transport.paths.probing import Probing
from transport.paths.reflector_client import ReflectorClient
from transport.quic.connection import QuicConnection
from transport.quic.host import QuicHost
from transport.quic.settings import QuicSettings
from transport.reach.reacher import Reacher
from transport.reach.relays import Relays
from transport.reach.whereabouts import Whereabouts

FARAWAY = "192.0.2.1"
"""What a node says of itself that cannot be reached directly (RFC 5737)."""


class Node:
    """Everything of a home host that signalling needs."""

    def __init__(
        self, quic: QuicHost, control: FakeControlHost, relays: Sequence[HomeRelay], tells: str
    ) -> None:
        self.quic = quic
        self.control = control
        self.probing = Probing(quic.endpoint)
        self.whereabouts = Whereabouts(
            ReflectorClient(self.probing, answer_s=0.3), tells, quic.port, None, lambda: None
        )
        self.relays = Relays(control, [r.address for r in relays], lambda: None)
        self.reacher = Reacher(control, self.relays, self.probing, self.whereabouts)

    @classmethod
    async def start(
        cls, network: FakeControl, *relays: HomeRelay, tells: str = FARAWAY, listens: bool = False
    ) -> "Node":
        """`tells`: the address that others hear of; on loopback they can reach it."""
        key = KeyPair.generate()
        quic = await QuicHost.start(key, listen_host="127.0.0.1", settings=QuicSettings())
        quic.set_handler(ECHO, echo)
        node = cls(quic, network.host(key, listens=listens), relays, tells)
        node.relays.start()
        await node.relays.wait_settled(2)
        return node

    @property
    def addresses(self) -> tuple[CircuitAddress, ...]:
        return self.relays.addresses

    @property
    def peer_id(self):
        return self.quic.peer_id

    async def reach(self, other: "Node", timeout_s: float = 5.0) -> QuicConnection:
        return await self.reacher.reach(other.peer_id, other.addresses, timeout_s)

    async def close(self) -> None:
        self.quic.say_goodbye()
        await self.reacher.close()
        await self.relays.close()
        await self.control.close()
        await self.whereabouts.close()
        await self.quic.close()


async def echoed(stream: Stream, size: int, frame: int = 16_384) -> bool:
    """Whether so many bytes came back as they went."""

    async def send() -> None:
        for index in range(size // frame):
            await stream.send(index.to_bytes(4, "big") * (frame // 4))

    sending = asyncio.create_task(send())
    same = True
    for index in range(size // frame):
        same = same and await stream.receive() == index.to_bytes(4, "big") * (frame // 4)
    await sending
    return same
