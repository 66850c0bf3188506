"""The data socket under fuzzed datagrams from everywhere, with an honest session in their midst.

What is damaged is real: QUIC's packets of a handshake and of a session, and every datagram of ours,
sealed with the keys in use; it comes from strangers, from the relay bare and FORWARDED, and from
the peer's own address, as from somebody on the way.
"""

import asyncio
import random
from collections.abc import Callable
from time import monotonic

from protocol.datagram import Bind, Bound, Probe, Probed, Reflect, Reflected, forwarded
from protocol.identity import KeyPair
from tests.hostile import MIB, Mutator, nothing_unhandled, object_count, resident_bytes
from tests.transport.conftest import ECHO, StartHost
from tests.transport.hostile_pair import HostilePair, Session, hostile_pair
from tests.transport.raw_peer import RawPeer
from transport.multistream import Initiator
from transport.quic.certificate import make_certificate
from transport.quic.settings import QuicSettings

SEED = 20_261_121
WAYS = ("stranger", "relay", "circuit", "peer")
OWN_COUNT, QUIC_COUNT = 20_000, 24_000
"""Damaged datagrams of ours, and of QUIC."""

INITIAL_COUNT, SEALED_COUNT = 2_000, 160
"""First packets, each of which costs a connection; and peers whose packets are genuine."""

BATCH = 100
"""Sent in one turn: no more than the socket's buffer takes, so that nothing is lost unseen."""

GROWTH_OBJECTS_MAX = 4_000
"""What the session in between may have under way: packets, timers, frames."""

GROWTH_BYTES_MAX = 24 * MIB
"""The kernel and the allocator round up; 45 000 kept datagrams would be twice that."""


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def fire(pair: HostilePair, mutator: Mutator, count: int) -> None:
    for index in range(count):
        host = pair.hosts[index % 2]
        way = WAYS[index // 2 % len(WAYS)]
        pair.attack(host, mutator.one(), way)
        if index % BATCH == BATCH - 1:
            await asyncio.sleep(0)
            await asyncio.sleep(0)


def own_datagrams(pair: HostilePair) -> list[bytes]:
    link, key = pair.links[0].link_id, pair.key
    secret = pair.relay.circuits[pair.circuit][1].secret
    transaction = bytes(8)
    made = [
        Reflect(transaction).encode(),
        Reflected(transaction, "203.0.113.9", 9).encode(),
        Reflected(transaction, "2001:db8::9", 9).encode(),
        Bind(pair.circuit, 1, 2**62).encode(secret),
        Bound(pair.circuit, 1, 5, True).encode(secret),
        *(
            Probe(link, bytes((bit, *range(7))), size).encode(key)
            for bit in (0, 128)
            for size in (35, 1200)
        ),
        Probed(link, bytes(8), 35).encode(key),
        *(data for data in pair.wire.seen if data[0] < 16),
    ]
    return [*made, *(forwarded(pair.circuit, data) for data in made), forwarded(bytes(8), made[0])]


async def test_tens_of_thousands_of_damaged_datagrams_leave_a_session_whole(start_host: StartHost):
    async with hostile_pair(start_host) as pair:
        pair.punch()
        await pair.connect()
        pair.bind()
        with nothing_unhandled():
            honest = [Session(pair.connection, SEED + index) for index in range(3)]
            while min(session.count for session in honest) < 20:
                await asyncio.sleep(0.01)
            seen = pair.wire.seen
            first = [data for data in seen if data[0] & 0xF0 == 0xC0]
            quic = [data for data in seen if data[0] & 0x40 and data not in first]
            assert len(first) >= 2
            assert {data[0] & 0xC0 for data in seen} == {0x00, 0x40, 0xC0}
            mutators = [
                (Mutator(SEED, own_datagrams(pair)), OWN_COUNT),
                (Mutator(SEED + 1, [*quic, *first]), QUIC_COUNT),
            ]
            for mutator, count in mutators:
                await fire(pair, mutator, count // 5)
            objects, resident = object_count(), resident_bytes()
            for mutator, count in mutators:
                await fire(pair, mutator, count - count // 5)
            for session in honest:
                await session.stop()
            assert object_count() - objects < GROWTH_OBJECTS_MAX
            assert resident_bytes() - resident < GROWTH_BYTES_MAX
        for host, probing in zip(pair.hosts, pair.probings, strict=True):
            endpoint, dropped = host.statistics().counts, probing.counts
            assert min(endpoint.noise_dropped, endpoint.unroutable_dropped) > 100
            assert min(endpoint.forwarded_dropped, dropped.malformed, dropped.unexpected) > 100
            assert len(host.connections()) == 1


class SealedFuzz:
    """Damages what a bare aioquic client sends before it is sealed: its packets are genuine."""

    def __init__(self, seed: int, peer: RawPeer) -> None:
        self.count = 0
        self._dice = random.Random(seed)
        self._peer = peer

    def begin(self) -> None:
        for crypto in self._peer.quic._cryptos.values():
            self._wrap(crypto)

    def _wrap(self, crypto) -> None:
        seal = crypto.encrypt_packet

        def damaged(header: bytes, payload: bytes, number: int) -> bytes:
            return seal(header, self._damage(payload), number)

        crypto.encrypt_packet = damaged

    def _damage(self, payload: bytes) -> bytes:
        """As long as it was, for it fills its place in the packet."""
        self.count += 1
        dice, size = self._dice, len(payload)
        if dice.random() < 0.5:
            # A frame of a known type with whatever fields, then padding.
            body = bytes((dice.randrange(0x20),)) + dice.randbytes(dice.choice((1, 4, 8, 40)))
            return body[:size].ljust(size, b"\0")
        made = bytearray(payload)
        for _ in range(dice.choice((1, 2, 5))):
            made[dice.randrange(min(size, 40))] = dice.randrange(256)
        return bytes(made)


async def test_genuine_packets_with_damaged_frames_cost_their_sender_only(start_host: StartHost):
    settings = QuicSettings(handshake_timeout_s=0.5, connections_per_peer_max=SEALED_COUNT)
    host, other = await start_host(settings), await start_host()
    honest = Session(await other.connect(host.peer_id, host.addresses, timeout_s=5), SEED)
    identity = make_certificate(KeyPair.generate())

    async def attack(index: int) -> int:
        """Odd ones shake hands first, and damage what they say then."""
        with RawPeer(host.port, identity) as peer:
            fuzz = SealedFuzz(SEED + index, peer)
            if index % 2:
                await peer.shake_hands()
                stream = peer.quic.get_next_available_stream_id()
                peer.quic.send_stream_data(stream, Initiator(ECHO).opening + b"\0\0\0\1x")
            fuzz.begin()
            for ping in range(3):
                if index % 2:
                    peer.quic.send_ping(ping)
                await peer.pump(0.01)
            return fuzz.count

    with nothing_unhandled():
        sealed = 0
        for begin in range(0, SEALED_COUNT, 16):
            sealed += sum(await asyncio.gather(*map(attack, range(begin, begin + 16))))
        assert sealed > SEALED_COUNT
        await until(lambda: host.statistics().half_open_count == 0)
        await honest.stop()


async def test_first_packets_that_prove_nothing_leave_nothing(start_host: StartHost):
    """Damaged, and for a connection id of their own, as each would open a connection."""
    host, other = await start_host(), await start_host()
    honest = Session(await other.connect(host.peer_id, host.addresses, timeout_s=5), SEED)
    with RawPeer(host.port, None) as peer:
        (initial, _), *_ = peer.quic.datagrams_to_send(monotonic())
        mutator = Mutator(SEED, [initial])
        with nothing_unhandled():
            objects = 0
            for index in range(INITIAL_COUNT):
                data = bytearray(mutator.one())
                data[6:14] = mutator.dice.randbytes(8)
                peer.socket.sendto(data[:9000], peer.address)
                if index % 20 == 0:
                    await asyncio.sleep(0)
                    objects = objects or object_count()
            await until(lambda: host.statistics().udp.datagrams_received >= INITIAL_COUNT)
            await honest.stop()
            assert object_count() - objects < GROWTH_OBJECTS_MAX
    assert len(host.endpoint.connections()) == len(host.connections()) == 1
