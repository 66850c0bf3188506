"""Datagrams in a control stream: framing, its bounds, and its end."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from protocol.datagram import LINK_BYTES
from protocol.errors import RemoteProtocolError
from tests.transport.control_hosts import read_all, until
from transport.control.base import ControlStream
from transport.control.testing import FakeControl
from transport.errors import StreamReset
from transport.reach.tunnel import QUEUE_BYTES_MAX, TUNNEL_DATAGRAM_BYTES, Tunnel, read_link

PROTOCOL = "/test/tunnel/1"
LINK = b"linklink"


class Ends:
    """Both ends of one control stream; `there` belongs to a handler that keeps it open."""

    def __init__(self, here: ControlStream, there: ControlStream, done: asyncio.Event) -> None:
        self.here = here
        self.there = there
        self.done = done


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    control = FakeControl()
    one, other = control.host(), control.host()
    accepted: asyncio.Future[ControlStream] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def accept(stream: ControlStream) -> None:
        accepted.set_result(stream)
        await done.wait()

    other.set_handler(PROTOCOL, accept)
    connection = await one.connect(other.addresses[0], timeout_s=1)
    stream = await connection.open_stream(PROTOCOL, timeout_s=1)
    yield Ends(stream, await accepted, done)
    done.set()
    await one.close()
    await other.close()


class Heard:
    """What a tunnel handed over, and why it ended."""

    def __init__(self) -> None:
        self.datagrams: list[bytes] = []
        self.ends: list[str] = []

    def tunnel(self, stream: ControlStream, **options) -> Tunnel:
        return Tunnel(stream, self.datagrams.extend, self.ends.append, **options)


def framed(*datagrams: bytes) -> bytes:
    return b"".join(len(d).to_bytes(2, "big") + d for d in datagrams)


async def test_datagrams_come_out_whole_and_in_order(ends: Ends):
    heard, deaf = Heard(), Heard()
    tunnel, other = heard.tunnel(ends.there), deaf.tunnel(ends.here)
    sent = [bytes([n]) * size for n, size in enumerate((1, 1200, TUNNEL_DATAGRAM_BYTES, 7))]
    other.send(sent[:3])
    other.send(sent[3:])
    await until(lambda: heard.datagrams == sent)
    await tunnel.close()
    await other.close()


async def test_reads_may_split_and_merge_datagrams_anywhere(ends: Ends):
    heard = Heard()
    tunnel = heard.tunnel(ends.there, rest=framed(b"first")[:3])
    wire = framed(b"first", b"", b"second" * 50, b"x")[3:]
    for start in range(0, len(wire), 5):
        await ends.here.write(wire[start : start + 5])
        await asyncio.sleep(0)
    await until(lambda: heard.datagrams == [b"first", b"", b"second" * 50, b"x"])
    await tunnel.close()


async def test_what_was_read_behind_the_name_is_not_lost(ends: Ends):
    await ends.here.write(LINK + framed(b"early"))
    assert len(LINK) == LINK_BYTES
    link, rest = await read_link(ends.there)
    heard = Heard()
    tunnel = heard.tunnel(ends.there, rest=rest)
    await until(lambda: heard.datagrams == [b"early"])
    assert link == LINK
    await tunnel.close()


async def test_opening_goes_before_every_datagram(ends: Ends):
    tunnel = Heard().tunnel(ends.here, opening=LINK)
    tunnel.send([b"after"])
    link, rest = await read_link(ends.there)
    while len(rest) < 7:
        rest += await ends.there.read(100)
    assert (link, rest) == (LINK, framed(b"after"))
    await tunnel.close()


async def test_stream_that_ends_before_the_name_is_refused(ends: Ends):
    await ends.here.write(LINK[:5])
    await ends.here.close()
    with pytest.raises(RemoteProtocolError, match="named its link"):
        await read_link(ends.there)


async def test_longer_datagram_than_any_of_ours_ends_the_tunnel(ends: Ends):
    heard = Heard()
    tunnel = heard.tunnel(ends.there)
    await ends.here.write(framed(b"good") + (TUNNEL_DATAGRAM_BYTES + 1).to_bytes(2, "big"))
    await until(lambda: bool(heard.ends))
    assert "longer" in heard.ends[0]
    await tunnel.wait_ended()


async def test_datagram_that_no_peer_would_take_is_dropped_and_counted(ends: Ends):
    heard = Heard()
    tunnel, other = Heard().tunnel(ends.here), heard.tunnel(ends.there)
    tunnel.send([bytes(TUNNEL_DATAGRAM_BYTES + 1), b"fits"])
    await until(lambda: heard.datagrams == [b"fits"])
    assert tunnel.dropped_count == 1
    await tunnel.close()
    await other.close()


async def test_full_queue_drops_what_is_newest_and_counts_it(ends: Ends):
    """The peer does not read: its window (256 KB), then the queue, fill up."""
    tunnel = Heard().tunnel(ends.here)
    datagram = bytes(8192)
    for _ in range(200):
        tunnel.send([datagram])
        await asyncio.sleep(0)
    kept = 200 - tunnel.dropped_count
    assert QUEUE_BYTES_MAX // 8194 <= kept <= (QUEUE_BYTES_MAX + 256 * 1024) // 8192
    heard = Heard()
    other = heard.tunnel(ends.there)
    await until(lambda: len(heard.datagrams) == kept)
    tunnel.send([b"room again"])
    await until(lambda: heard.datagrams[-1] == b"room again")
    await tunnel.close()
    await other.close()


async def test_end_is_told_once_on_both_sides(ends: Ends):
    near, far = Heard(), Heard()
    tunnel, other = near.tunnel(ends.here), far.tunnel(ends.there)
    await tunnel.close()
    await tunnel.close()
    tunnel.end("again")
    await until(lambda: bool(far.ends))
    assert (near.ends, len(far.ends)) == (["closed by this side"], 1)
    tunnel.send([b"late"])
    assert tunnel.dropped_count == 1
    await other.close()


async def test_peer_that_finishes_ends_the_tunnel(ends: Ends):
    heard = Heard()
    tunnel = heard.tunnel(ends.there)
    await ends.here.close()
    await tunnel.wait_ended()
    assert heard.ends == ["closed by the peer"]


async def test_close_frees_tasks_and_stream_even_while_a_write_waits(ends: Ends):
    tasks = asyncio.all_tasks()
    tunnel = Heard().tunnel(ends.here)
    for _ in range(100):
        tunnel.send([bytes(8192)])
        await asyncio.sleep(0)
    await tunnel.close()
    assert asyncio.all_tasks() == tasks
    with pytest.raises(StreamReset):
        await read_all(ends.there)


async def test_end_before_the_first_turn_frees_the_stream(ends: Ends):
    heard = Heard()
    tunnel = heard.tunnel(ends.here)
    tunnel.end("at once")
    await tunnel.wait_ended()
    assert heard.ends == ["at once"]
    with pytest.raises(StreamReset):
        await ends.there.read(1)


async def test_bug_in_a_receiver_ends_the_tunnel_and_is_logged(ends: Ends, caplog):
    heard = Heard()

    def broken(_: list[bytes]) -> None:
        raise ZeroDivisionError

    tunnel = Tunnel(ends.there, broken, heard.ends.append)
    await ends.here.write(framed(b"x"))
    await tunnel.wait_ended()
    assert len(heard.ends) == 1
    assert "a tunnel broke" in caplog.text


async def test_ending_may_come_from_within_a_receiver(ends: Ends):
    heard = Heard()
    tunnel = Tunnel(ends.there, lambda _: tunnel.end("enough"), heard.ends.append)
    await ends.here.write(framed(b"x"))
    await tunnel.wait_ended()
    assert heard.ends == ["enough"]
