"""Two hosts with a link, a relay and a wire that remembers, and an honest session between them."""

import asyncio
import contextlib
import hashlib
import os
import random
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import monotonic

from protocol.datagram import forwarded
from protocol.reach import Candidate, CandidateKind, NATHints
from tests.transport.conftest import ECHO, StartHost
from tests.transport.wires import Address, FakeRelay, NATPair
from transport.base import Connection
from transport.paths.link import Link
from transport.paths.path_address import CircuitPath
from transport.paths.probing import Probing
from transport.quic.connection import QuicConnection
from transport.quic.host import QuicHost


class Recorder(NATPair):
    """Keeps a copy of what passes, until there is enough."""

    def __init__(self, a: Address, b: Address) -> None:
        super().__init__(a, b)
        self.seen: list[bytes] = []

    def carry(self, data: bytes, port, target: Address) -> None:
        if len(self.seen) < 400:
            self.seen.append(data)
        super().carry(data, port, target)


class Session:
    """Echoes frames of random sizes until stopped; `digest` of both directions is the same."""

    def __init__(
        self, connection: Connection, seed: int, sizes: Sequence[int] = (1, 100, 5000, 60_000)
    ) -> None:
        self.count = self.byte_count = 0
        self._sizes = sizes
        self._connection = connection
        self._dice = random.Random(seed)
        self._sent, self._received = hashlib.sha256(), hashlib.sha256()
        self._task = asyncio.create_task(self._run())
        # `reach` and `stop` raise what went wrong; a test that failed before asks for neither.
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._is_over = False

    async def reach(self, count: int, timeout_s: float = 10.0) -> None:
        """Until that many frames have come back; fails as soon as the session does."""
        async with asyncio.timeout(timeout_s):
            while self.count < count:
                if self._task.done():
                    self._task.result()
                await asyncio.sleep(0.005)

    async def stop(self, timeout_s: float = 10.0) -> None:
        """Ends the session well; fails if a byte is missing, doubled or changed."""
        self._is_over = True
        await asyncio.wait_for(self._task, timeout_s)
        assert self.count > 0
        assert self._sent.digest() == self._received.digest()

    async def _run(self) -> None:
        stream = await self._connection.open_stream(ECHO)
        while not self._is_over:
            frame = self._dice.randbytes(self._dice.choice(self._sizes))
            self._sent.update(frame)
            await stream.send(frame)
            answer = await stream.receive()
            assert answer is not None
            self._received.update(answer)
            self.count += 1
            self.byte_count += len(frame)
            await asyncio.sleep(0.001)
        stream.finish()
        assert await stream.receive() is None


class HostilePair:
    """Two hosts linked directly and by a relay, seen by an attacker who stands everywhere."""

    connection: QuicConnection

    def __init__(self, here: QuicHost, there: QuicHost, relay: FakeRelay | None = None) -> None:
        self.hosts = here, there
        self.probings = tuple(Probing(host.endpoint) for host in self.hosts)
        self.relay = relay or FakeRelay()
        self.circuit = self.relay.circuit()
        self.wire = Recorder(*(("127.0.0.1", host.port) for host in self.hosts))
        self.key = os.urandom(32)
        link_id = os.urandom(8)
        self.links = tuple(
            Link(probing, link_id, self.key, peer.peer_id, is_initiator=peer is there)
            for probing, peer in zip(self.probings, self.hosts[::-1], strict=True)
        )
        self.stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.stranger.setblocking(False)
        self.stranger.bind(("127.0.0.1", 0))

    def bind(self) -> None:
        """Make the relay's circuit a path."""
        for side, link in enumerate(self.links):
            secret = self.relay.circuits[self.circuit][side].secret
            link.add_circuit(CircuitPath(self.relay.address, self.circuit), side, secret)

    def punch(self) -> None:
        """Make the wire a path."""
        own = [Candidate(CandidateKind.LAN, "127.0.0.1", 1)]
        for link, address in zip(
            self.links, (self.wire.seen_by_a, self.wire.seen_by_b), strict=True
        ):
            candidate = Candidate(CandidateKind.OBSERVED, *address)
            link.punch(own, [candidate], NATHints(), NATHints(), monotonic() + 0.02)

    async def connect(self) -> None:
        here, there = self.links
        self.connection, _ = await asyncio.gather(here.connect(5), there.wait_connection(5))

    def attack(self, host: QuicHost, data: bytes, way: str) -> None:
        """Send `data` to `host` as a stranger, as the relay (bare or FORWARDED), or as its peer."""
        target = ("127.0.0.1", host.port)
        match way:
            case "stranger":
                with contextlib.suppress(OSError):  # EMSGSIZE, or a full buffer
                    self.stranger.sendto(data, target)
            case "relay":
                self.relay.main.send(data[:9000], target)
            case "circuit":
                self.relay.main.send(forwarded(self.circuit, data[:9000]), target)
            case "peer":
                port = self.wire.near_b if host is self.hosts[1] else self.wire.near_a
                port.send(data[:9000], target)

    def close(self) -> None:
        for link in self.links:
            link.close()
        self.relay.close()
        self.wire.close()
        self.stranger.close()


@asynccontextmanager
async def hostile_pair(
    start_host: StartHost, relay: FakeRelay | None = None
) -> AsyncIterator[HostilePair]:
    """Not connected yet; `bind` and `punch` say by which ways it will be."""
    pair = HostilePair(await start_host(), await start_host(), relay)
    try:
        yield pair
    finally:
        pair.close()
