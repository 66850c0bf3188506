"""Peers that misuse signalling: damaged messages, floods of links, circuits at a victim's address.

They come by a relay, with a PeerId that is proved and a connection of their own; what they may cost
is bounded by name, and others are served meanwhile.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from time import monotonic

import pytest

from protocol.datagram import FORWARDED_HEADER_BYTES, PROBE_BYTES_MIN
from protocol.errors import PieceworkError
from protocol.identity import KeyPair
from protocol.reach import (
    CANDIDATES_MAX,
    Candidate,
    CandidateKind,
    CircuitSide,
    Connect,
    Mapping,
    NATHints,
    Sync,
    encode_reach,
)
from tests.hostile import Mutator, nothing_unhandled
from tests.transport.home_network import Network, Victim, circuits_of, home_network, whole
from transport.address import CircuitAddress
from transport.control.base import ControlConnection, ControlStream
from transport.home_host import HomeHost
from transport.paths.forwarder_client import RETRY_S
from transport.paths.holepunch import INTERVAL_S
from transport.reach.messages import REACH_PROTOCOL
from transport.reach.responder import LINKS_PER_PEER_MAX, ROUND_GAP_S
from transport.reach.tunnel import TUNNEL_PROTOCOL

SEED = 20_261_121
STREAM_COUNT, AT_ONCE = 400, 20
LINK_COUNT = 60


class Attack:
    """A home host, and a peer that does as it likes on its control plane."""

    def __init__(self, network: Network, relay, home: HomeHost) -> None:
        self.network, self.relay, self.home = network, relay, home
        self.connection: ControlConnection

    async def join(self, key: KeyPair | None = None) -> None:
        host = self.network.control.host(key, listens=False)
        address = CircuitAddress(self.relay.addresses[0], self.home.peer_id)
        self.connection = await host.connect(address, timeout_s=5)

    async def open(self, protocol: str, data: bytes) -> ControlStream:
        stream = await self.connection.open_stream(protocol, timeout_s=5)
        await stream.write(data)
        return stream

    async def honest_echo(self) -> None:
        """Somebody else reaches the same host."""
        other = await self.network.home()
        await whole(await other.connect(self.home.peer_id, circuits_of(self.home), timeout_s=5))


@pytest.fixture
async def attack() -> AsyncIterator[Attack]:
    async with home_network() as network:
        _, relay = network.relay()
        made = Attack(network, relay, await network.home(relay))
        await made.join()
        yield made


@pytest.fixture
def victim() -> Iterator[Victim]:
    made = Victim()
    yield made
    made.socket.close()


def framed(message: Connect | Sync) -> bytes:
    body = encode_reach(message)
    return len(body).to_bytes(4, "big") + body


def connect(**fields) -> Connect:
    default = {
        "round": 0,
        "link": os.urandom(8),
        "key": bytes(32),
        "hints": NATHints(),
        "candidates": (Candidate(CandidateKind.OBSERVED, "127.0.0.1", 9),),
    }
    return Connect(**{**default, **fields})


async def read_all(stream: ControlStream) -> None:
    async with asyncio.timeout(5):
        while await stream.read(4096):
            continue


@pytest.mark.parametrize("protocol", [REACH_PROTOCOL, TUNNEL_PROTOCOL])
async def test_damaged_streams_harm_nobody(attack: Attack, protocol: str):
    link = bytes(8)
    signalled = framed(connect(link=link)) + framed(Sync(0)) + framed(connect(link=link, round=1))
    tunnelled = link + b"\x04\xb0" + b"\xc0\0\0\0\1\x08" + bytes(1194) + b"\0\x01\x40"
    mutator = Mutator(SEED, [signalled if protocol == REACH_PROTOCOL else tunnelled])

    async def abuse(data: bytes) -> None:
        with contextlib.suppress(PieceworkError, TimeoutError):
            stream = await attack.open(protocol, data)
            await stream.finish()
            async with asyncio.timeout(0.2):
                while await stream.read(4096):
                    continue
            await stream.reset()

    with nothing_unhandled():
        if protocol == TUNNEL_PROTOCOL:
            await attack.open(REACH_PROTOCOL, framed(connect(link=link)))
            await asyncio.sleep(0.05)
        for _ in range(STREAM_COUNT // AT_ONCE):
            await asyncio.gather(*(abuse(mutator.one()) for _ in range(AT_ONCE)))
        assert len(attack.home.links) <= LINKS_PER_PEER_MAX + AT_ONCE
        await attack.honest_echo()


async def test_one_peer_has_so_many_links_and_its_oldest_go(attack: Attack):
    with nothing_unhandled():
        streams = [await attack.open(REACH_PROTOCOL, framed(connect())) for _ in range(LINK_COUNT)]
        async with asyncio.timeout(5):
            while len(attack.home.links) > LINKS_PER_PEER_MAX:
                await asyncio.sleep(0.01)
        for stream in streams[:-LINKS_PER_PEER_MAX]:
            with contextlib.suppress(PieceworkError):
                await read_all(stream)
        await attack.honest_echo()


async def test_a_link_cannot_be_taken_over_by_another_peer(attack: Attack):
    link = os.urandom(8)
    thief = Attack(attack.network, attack.relay, attack.home)
    await thief.join()
    with nothing_unhandled():
        await attack.open(REACH_PROTOCOL, framed(connect(link=link)))
        await asyncio.sleep(0.05)
        for protocol, data in (
            (REACH_PROTOCOL, framed(connect(link=link))),
            (TUNNEL_PROTOCOL, link),
        ):
            stream = await thief.open(protocol, data)
            with pytest.raises(PieceworkError):
                await read_all(stream)
        assert len(attack.home.links) == 1


async def test_circuits_at_a_victims_address_are_few_and_slow(attack: Attack, victim: Victim):
    """However many rounds name others: a link binds those of its newest round only."""
    link = os.urandom(8)

    def circuits() -> tuple[CircuitSide, ...]:
        sides = (CircuitSide(*victim.address, os.urandom(8), 1, bytes(32)) for _ in range(2))
        return tuple(sides)

    with nothing_unhandled():
        began = monotonic()
        stream = await attack.open(REACH_PROTOCOL, framed(connect(link=link, circuits=circuits())))
        for number in range(1, 40):
            await stream.write(framed(connect(link=link, round=number, circuits=circuits())))
        await asyncio.sleep(1.5)
        elapsed_s = monotonic() - began
        taken = victim.taken()
        # A round binds its two, and again when it is answered; then they are asked for.
        assert 0 < len(taken) <= 8 + elapsed_s * (2 * 4 / ROUND_GAP_S + 2 / RETRY_S)
        assert max(map(len, taken)) <= FORWARDED_HEADER_BYTES + PROBE_BYTES_MIN
        await attack.honest_echo()


async def test_punching_at_a_victim_is_a_trickle_whatever_is_said(attack: Attack, victim: Victim):
    """His address sixteen times, a NAT that must be guessed at, and hundreds of SYNCs."""
    message = connect(
        hints=NATHints(Mapping.DEPENDENT, ports=tuple(range(2000, 2016))),
        candidates=(Candidate(CandidateKind.OBSERVED, *victim.address),) * CANDIDATES_MAX,
    )
    with nothing_unhandled():
        began = monotonic()
        stream = await attack.open(REACH_PROTOCOL, framed(message))
        await asyncio.sleep(0.05)
        for _ in range(200):
            await stream.write(framed(Sync(0)))
        await asyncio.sleep(1.0)
        elapsed_s = monotonic() - began
        taken = victim.taken()
        # One a tick; a tick that came late is followed by one that comes early.
        assert 0 < len(taken) <= 2 + elapsed_s / (INTERVAL_S / 2)
        assert {len(data) for data in taken} == {PROBE_BYTES_MIN}
        await attack.honest_echo()


async def test_a_peer_that_vanishes_in_mid_round_leaves_the_host_free(attack: Attack):
    with nothing_unhandled():
        for _ in range(20):
            lost = Attack(attack.network, attack.relay, attack.home)
            await lost.join()
            await lost.open(REACH_PROTOCOL, framed(connect())[:-3])
            await lost.open(REACH_PROTOCOL, framed(connect()))
            await lost.connection.close()
        await asyncio.sleep(0.1)
        await attack.honest_echo()
        await attack.home.close()
        assert attack.home.links == ()
