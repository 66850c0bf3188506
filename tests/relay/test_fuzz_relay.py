"""A relay under fuzzed datagrams and requests, while others use it."""

import asyncio
import contextlib
import hashlib
import socket
import struct
import sys

import pytest

from protocol.datagram import (
    COOKIE_BYTES,
    Bind,
    Bound,
    Probe,
    Probed,
    Reflect,
    Reflected,
    forwarded,
)
from protocol.errors import PieceworkError
from protocol.identity import KeyPair
from protocol.relay_messages import FORWARD_PROTOCOL, ForwardRequest
from protocol.rendezvous_messages import RENDEZVOUS_PROTOCOL, Discover, Unregister
from relay.carrying import Carrier
from relay.circuits import CircuitService
from relay.datagrams import RelayDatagrams
from relay.forwarder import Forwarder, Grant
from relay.forwarding import ForwardingService
from relay.rendezvous import RendezvousService
from relay.requests import RequestGate
from relay.resources import CircuitLimits, ForwarderLimits, Resources
from relay.usage import DropReason, UsageTable
from tests.hostile import Mutator, nothing_unhandled, object_count
from tests.relay.control_pair import RelayHost
from tests.relay.test_rendezvous import fresh
from transport.control.circuit_messages import HOP_PROTOCOL, HopMessage, HopType, write_message

SEED = 20_261_121
DATAGRAM_COUNT, BATCH = 20_000, 100
STREAM_COUNT = 600
"""Of damaged requests to each service."""

GROWTH_OBJECTS_MAX = 1000
LOOPBACK = "127.0.0.1"
OWNER, OTHER = (KeyPair(name * 32).peer_id for name in (b"1", b"2"))


class Node:
    """A socket that knows the relay, and what it got from there."""

    def __init__(self, relay: RelayDatagrams) -> None:
        self.target = (LOOPBACK, relay.ports[0])
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.socket.bind((LOOPBACK, 0))
        self.socket.setblocking(False)
        self.sent_bytes = 0

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # too long for a datagram
            self.sent_bytes += self.socket.sendto(data, self.target)

    def send_merged(self, data: bytes) -> None:
        """Twice in one call, so that the relay may read them as one."""
        if sys.platform == "linux" and 0 < len(data) < 1400:
            control = [(socket.IPPROTO_UDP, 103, struct.pack("H", len(data)))]
            self.sent_bytes += self.socket.sendmsg([data, data], control, 0, self.target)

    def taken(self) -> list[bytes]:
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.socket.recv(65536))
        return found


async def bind(node: Node, grant: Grant, side: int, counter: int, cookie: bytes) -> Bound:
    """Asks, and asks again with the cookie that it is told."""
    node.send(Bind(grant.circuit, side, counter, cookie).encode(grant.secrets[side]))
    async with asyncio.timeout(5):
        while not (answers := node.taken()):
            await asyncio.sleep(0.005)
    bound = Bound.decode(answers[0])
    return bound if bound.is_bound else await bind(node, grant, side, counter + 1, bound.cookie)


async def test_damaged_datagrams_reach_nobody_and_amplify_nothing():
    relay = RelayDatagrams.open(LOOPBACK, (0, 0), Resources())
    relay.start()
    a, b, stranger = (Node(relay) for _ in range(3))
    grant = relay.forwarder.allocate(OWNER, OTHER, 0)
    for node, side in ((a, 0), (b, 1)):
        assert (await bind(node, grant, side, 1, bytes(COOKIE_BYTES))).circuit == grant.circuit
    transaction, link, key = bytes(8), bytes(8), bytes(32)
    mutator = Mutator(
        SEED,
        [
            Reflect(transaction).encode(),
            Reflect(transaction, True).encode(),
            Reflected(transaction, "203.0.113.9", 9).encode(),
            *(Bind(grant.circuit, side, 9).encode(grant.secrets[side]) for side in (0, 1)),
            Bound(grant.circuit, 0, 1, True).encode(grant.secrets[0]),
            Probe(link, link, 1200).encode(key),
            Probed(link, link, 35).encode(key),
            forwarded(grant.circuit, Probe(link, link).encode(key)),
            forwarded(grant.circuit, b"\x40" + bytes(1200)),
            forwarded(bytes(8), b"\x40" + bytes(1200)),
        ],
    )
    sent, arrived = hashlib.sha256(), hashlib.sha256()
    rounds = DATAGRAM_COUNT // BATCH
    objects = answered_bytes = 0
    with nothing_unhandled():
        for index in range(rounds):
            for number in range(BATCH):
                data = mutator.one()
                if data in mutator.samples:
                    continue  # whole after all: a BIND that is genuine may move its side
                (stranger.send_merged if number % 10 == 0 else stranger.send)(data)
            honest = forwarded(grant.circuit, b"\x40" + mutator.dice.randbytes(1000))
            a.send(honest)
            sent.update(honest)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for data in b.taken():
                arrived.update(data)
            answered_bytes += sum(map(len, stranger.taken()))
            if index == rounds // 5:
                objects = object_count()
        await asyncio.sleep(0.05)
        for data in b.taken():
            arrived.update(data)
        assert object_count() - objects < GROWTH_OBJECTS_MAX
    assert arrived.digest() == sent.digest()
    assert a.taken() == []
    assert answered_bytes < stranger.sent_bytes / 20
    drops = relay.forwarder.statistics().drops
    for reason in (
        DropReason.MALFORMED,
        DropReason.UNKNOWN_CIRCUIT,
        DropReason.WRONG_SOURCE,
        DropReason.FORGED_BIND,
        DropReason.UNKNOWN_TYPE,
    ):
        assert drops[reason] > 100, reason
    relay.close()
    for node in (a, b, stranger):
        node.socket.close()


class Services:
    """All that a stranger may ask of a relay, on one host in memory."""

    def __init__(self) -> None:
        resources = Resources()
        circuits, rates = CircuitLimits(requests_per_peer_per_s=1e6), ForwarderLimits()
        self.host = RelayHost()
        self.gate = RequestGate(circuits)
        self.circuits = CircuitService(
            self.host, circuits, self.gate, Carrier(circuits, rates), UsageTable(rates), tuple
        )
        self.forwarder = Forwarder(rates)
        forwarding = ForwardingService(
            self.forwarder, self.gate, (circuits, rates), host="", ports=(4001,)
        )
        rendezvous = RendezvousService(resources.rendezvous, self.gate)
        self.host.set_handler(HOP_PROTOCOL, self.circuits.serve)
        self.host.set_handler(FORWARD_PROTOCOL, forwarding.serve)
        self.host.set_handler(RENDEZVOUS_PROTOCOL, rendezvous.serve)

    async def close(self) -> None:
        await self.host.close()
        await self.circuits.close()


def requests(protocol: str, peer: KeyPair) -> list[bytes]:
    """Whole requests as they stand on the stream."""
    if protocol == HOP_PROTOCOL:
        messages = [HopMessage(HopType.RESERVE), HopMessage(HopType.CONNECT, peer=OTHER)]
        bodies = [message.encode() for message in messages]
        return [bytes((len(body),)) + body for body in bodies]
    if protocol == FORWARD_PROTOCOL:
        bodies = [ForwardRequest(OTHER).encode()]
    else:
        asked = (fresh(peer), Unregister("home"), Discover("home", 10))
        bodies = [request.encode() for request in asked]
    return [len(body).to_bytes(4, "big") + body for body in bodies]


@pytest.mark.parametrize("protocol", [HOP_PROTOCOL, FORWARD_PROTOCOL, RENDEZVOUS_PROTOCOL])
async def test_damaged_requests_are_refused_and_leave_nothing(protocol: str):
    services = Services()
    peer = services.host.join("stranger")
    mutator = Mutator(SEED, requests(protocol, peer.key))

    async def ask(data: bytes) -> None:
        """Sent, ended, and read to the end, as far as the relay goes along."""
        stream = peer.ask(protocol)
        with contextlib.suppress(PieceworkError):
            await stream.write(data)
            await stream.finish()
            while await stream.read(65536):
                continue

    with nothing_unhandled():
        for _ in range(STREAM_COUNT // 10):
            async with asyncio.timeout(10):
                await asyncio.gather(*(ask(mutator.one()) for _ in range(10)))
        failed = [task for task in peer.tasks if task.done() and task.exception()]
        assert not failed, repr(failed[0].exception())
        assert all(task.done() for task in peer.tasks)
        assert services.forwarder.statistics().circuits == 0
        assert services.gate.refusals.counts.total() > STREAM_COUNT // 20
        # And the next honest one is served.
        reserve = services.host.join("honest").ask(HOP_PROTOCOL)
        await write_message(reserve, HopMessage(HopType.RESERVE))
        assert await reserve.read(4096)
    await services.close()
