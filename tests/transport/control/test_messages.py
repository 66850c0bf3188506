"""Whole messages on a control stream, and what bounds them."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from protocol.errors import RemoteProtocolError
from transport.control.base import ControlStream
from transport.control.messages import read_message, write_message
from transport.control.testing import FakeControl
from transport.errors import PeerGone, TimedOut

PROTOCOL = "/test/messages/1"


@pytest.fixture
async def ends() -> AsyncIterator[tuple[ControlStream, ControlStream]]:
    control = FakeControl()
    one, other = control.host(), control.host()
    accepted: asyncio.Future[ControlStream] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def accept(stream: ControlStream) -> None:
        accepted.set_result(stream)
        await done.wait()

    other.set_handler(PROTOCOL, accept)
    connection = await one.connect(other.addresses[0], timeout_s=1)
    yield await connection.open_stream(PROTOCOL, timeout_s=1), await accepted
    done.set()
    await one.close()
    await other.close()


async def test_messages_come_whole_however_their_bytes_arrive(ends):
    here, there = ends
    for byte in b"\0\0\0\5hello\0\0\0\0\0\0\0\1x":
        await here.write(bytes([byte]))
    assert [await read_message(there, 5, timeout_s=1) for _ in range(3)] == [b"hello", b"", b"x"]


async def test_longer_message_than_allowed_is_refused_unread(ends):
    here, there = ends
    await write_message(here, b"123456")
    with pytest.raises(RemoteProtocolError, match="6 bytes; at most 5"):
        await read_message(there, 5, timeout_s=1)


async def test_end_in_the_middle_is_no_message(ends):
    here, there = ends
    await here.write(b"\0\0\0\5hel")
    await here.close()
    with pytest.raises(PeerGone):
        await read_message(there, 5, timeout_s=1)


async def test_message_that_does_not_come_is_waited_for_no_longer_than_asked(ends):
    with pytest.raises(TimedOut):
        await read_message(ends[1], 5, timeout_s=0.02)


async def test_peer_who_does_not_read_is_waited_for_no_longer_than_asked(ends):
    with pytest.raises(TimedOut, match="took no message"):
        await write_message(ends[0], bytes(1024 * 1024), timeout_s=0.05)
