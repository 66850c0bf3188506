"""A thousand connections opened and cut, in every way there is: afterwards nothing is left."""

import asyncio
import gc

from aioquic.quic.events import HandshakeCompleted

from protocol.identity import KeyPair
from tests.hostile import (
    MIB,
    descriptor_count,
    nothing_unhandled,
    object_count,
    resident_bytes,
)
from tests.transport.conftest import ECHO, StartHost
from tests.transport.hostile_pair import Session
from tests.transport.raw_peer import RawPeer
from transport.multistream import Initiator
from transport.quic.certificate import make_certificate
from transport.quic.connection import QuicConnection
from transport.quic.private import QuicCore
from transport.quic.settings import QuicSettings
from transport.quic.stream import QuicStream

COUNT, AT_ONCE = 1000, 25
SETTINGS = QuicSettings(
    connections_per_peer_max=COUNT,
    # How the abandoned are noticed; as by default, only sooner.
    handshake_timeout_s=1.0,
    keepalive_s=0.5,
    busy_silence_s=0.5,
    ping_interval_s=0.2,
    silence_max_s=1.5,
)
IDENTITY = make_certificate(KeyPair.generate())

GROWTH_OBJECTS_MAX = 500
"""Of the honest session and the libraries; a connection has some hundred."""

GROWTH_BYTES_MAX = 16 * MIB
"""From the first half to the second: the allocator keeps what a crowd needed once. Five hundred
connections that were kept would be 60 MiB."""

KINDS = (QuicConnection, QuicCore, QuicStream)


def living(*kinds: type) -> int:
    """How many objects of exactly these types there are."""
    gc.collect()
    # Not isinstance: an abstract class remembers every type it was ever asked about.
    return sum(type(each) in kinds for each in gc.get_objects())


def timer_count() -> int:
    """Timers that are set: asyncio's own loop shows them."""
    return sum(not handle.cancelled() for handle in asyncio.get_running_loop()._scheduled)


async def until(condition, timeout_s: float = 15.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


async def cut(port: int, index: int) -> None:
    """One connection that ends in its own way."""
    with RawPeer(port, IDENTITY) as peer:
        way = index % 5
        if way == 0:  # killed after its first packet
            peer.send()
            return
        if way == 1:  # killed in mid-handshake, with half an answer
            await peer.pump(0.02, until=HandshakeCompleted)
            return
        await peer.shake_hands()
        quic = peer.quic
        stream = quic.get_next_available_stream_id()
        opening = Initiator(ECHO).opening
        if way == 2:  # closed well
            quic.send_stream_data(stream, opening + b"\0\0\0\1x", end_stream=True)
            await peer.pump(0.01)
            quic.close(reason_phrase="goodbye")
        elif way == 3:  # cut in mid-frame, without a word
            quic.send_stream_data(stream, opening + b"\0\0\xff\xff" + bytes(3000))
        else:  # abandoned while the answer comes back
            quic.send_stream_data(stream, opening + b"\0\0\x80\0" + bytes(0x8000))
        peer.send()


async def test_a_thousand_connections_that_were_cut_leave_nothing(start_host: StartHost):
    host, other = await start_host(SETTINGS), await start_host(SETTINGS)
    honest = Session(await other.connect(host.peer_id, host.addresses, timeout_s=5), seed=1)

    async def crowd() -> None:
        for begin in range(0, COUNT // 2, AT_ONCE):
            await asyncio.gather(*(cut(host.port, begin + n) for n in range(AT_ONCE)))
        await until(lambda: len(host.endpoint.connections()) == 1)

    with nothing_unhandled():
        await crowd()
        tasks, timers, files = len(asyncio.all_tasks()), timer_count(), descriptor_count()
        objects, resident, alive = object_count(), resident_bytes(), living(*KINDS)
        await crowd()
        await honest.stop()
        await asyncio.sleep(0.1)
        assert len(host.connections()) == 1
        assert host.statistics().half_open_count == 0
        assert len(host.endpoint._routes) < 20
        assert len(asyncio.all_tasks()) <= tasks
        assert timer_count() <= timers + 1
        assert descriptor_count() <= files
        assert living(*KINDS) <= alive
        assert object_count() - objects < GROWTH_OBJECTS_MAX
        assert resident_bytes() - resident < GROWTH_BYTES_MAX
