"""A host that dials itself: streams to its own handlers behave as any other."""

import asyncio

import pytest

from protocol.errors import LocalProtocolError
from transport.base import PathKind
from transport.errors import PeerGone, ProtocolNotSupported, StreamReset
from transport.own_link import UNREAD_BYTES_MAX, OwnLinkHost
from transport.testing import FakeNetwork

ECHO = "/echo/1"


async def echo(stream):
    while (frame := await stream.receive()) is not None:
        await stream.send(b"echo ", frame)


async def opened(handler=echo):
    host = OwnLinkHost(FakeNetwork().host())
    host.set_handler(ECHO, handler)
    connection = await host.connect(host.peer_id, (), timeout_s=1)
    return host, await connection.open_stream(ECHO)


async def test_frames_come_back_whole_and_in_order():
    host, stream = await opened()
    for frame in (b"one", b"", b"two"):
        await stream.send(frame)
    assert [await stream.receive() for _ in range(3)] == [b"echo one", b"echo ", b"echo two"]
    stream.finish()
    assert await stream.receive() is None
    assert (stream.peer_id, stream.path_kind) == (host.peer_id, PathKind.LAN)
    assert stream.statistics().frames_sent == stream.statistics().frames_received == 3
    await host.close()


async def test_others_are_dialled_as_before_and_reach_the_same_handlers():
    network = FakeNetwork()
    host, other = OwnLinkHost(network.host()), network.host()
    host.set_handler(ECHO, echo)
    near = await other.connect(host.peer_id, host.addresses, timeout_s=1)
    stream = await near.open_stream(ECHO)
    await stream.send(b"hi")
    assert await stream.receive() == b"echo hi"
    far = await host.connect(other.peer_id, other.addresses, timeout_s=1)
    assert far.peer_id == other.peer_id
    assert [c.peer_id for c in host.connections()] == [other.peer_id]
    await host.close()


async def test_a_protocol_that_is_not_served_is_told():
    host, _ = await opened()
    connection = await host.connect(host.peer_id, (), timeout_s=1)
    stream = await connection.open_stream("/other/1")
    with pytest.raises(ProtocolNotSupported):
        await stream.receive()
    await host.close()


async def test_a_reset_is_seen_at_the_other_end():
    seen = asyncio.get_running_loop().create_future()

    async def handle(stream):
        try:
            await stream.receive()
        except StreamReset as error:
            seen.set_result(error.code)

    host, stream = await opened(handle)
    stream.reset(7)
    assert await seen == 7
    with pytest.raises(StreamReset):
        await stream.send(b"late")
    await host.close()


async def test_a_slow_reader_slows_its_writer():
    may_read = asyncio.Event()

    async def handle(stream):
        await may_read.wait()
        while await stream.receive() is not None:
            continue

    host, stream = await opened(handle)
    sending = asyncio.create_task(stream.send(bytes(UNREAD_BYTES_MAX + 1)))
    await asyncio.sleep(0.01)
    assert not sending.done()
    may_read.set()
    await sending
    await host.close()


async def test_a_handler_that_returns_closes_the_stream():
    async def handle(stream):
        await stream.send(b"bye")

    host, stream = await opened(handle)
    assert [await stream.receive(), await stream.receive()] == [b"bye", None]
    with pytest.raises(StreamReset):
        await stream.send(b"late")
    await host.close()


async def test_closing_the_host_ends_what_waits():
    async def handle(stream):
        await asyncio.sleep(60)

    host, stream = await opened(handle)
    waiting = asyncio.create_task(stream.receive())
    await asyncio.sleep(0)
    await host.close()
    with pytest.raises((PeerGone, StreamReset)):
        await waiting
    with pytest.raises(PeerGone):
        await (await host.connect(host.peer_id, (), timeout_s=1)).open_stream(ECHO)


async def test_nothing_is_sent_after_the_end():
    host, stream = await opened()
    stream.finish()
    with pytest.raises(LocalProtocolError):
        await stream.send(b"late")
    await host.close()
