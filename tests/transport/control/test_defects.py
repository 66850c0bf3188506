"""Each defect of py-libp2p that we work around: first shown in the library, then ours without it.

A test named `test_library_…` that fails after an upgrade is good news: the workaround can go.
"""

import logging
import struct
import subprocess
import sys

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from transport.control.budget import ReceiveBudget
from transport.control.defects import (
    BoundedYamux,
    open_muxed,
    read_muxed,
    reset_muxed,
    write_muxed,
)
from transport.control.library import BaseLibp2pError, ConnectionClosedError, Yamux
from transport.control.pipe import Pipe
from transport.control.settings import ControlSettings
from transport.errors import PeerGone, StreamReset, TransportError

DATA, WINDOW_UPDATE, PING = 0, 1, 2
SYN, ACK, FIN, RST = 1, 2, 4, 8


def frame(kind, flags, stream_id, length, body=b""):
    return struct.pack("!BBHII", 0, kind, flags, stream_id, length) + body


class Wire:
    """What the muxer takes for a secured connection; `raw` is the other end."""

    def __init__(self, is_initiator=True):
        self.near, self.raw = memory_stream_pair()
        self.is_initiator = is_initiator
        self.heard_at_s = 0.0
        self.is_full = self.is_closed = False
        self.changed = trio.Event()
        self.on_half = lambda: None

    async def read(self, n):
        try:
            data = await self.near.receive_some(n)
        except trio.ClosedResourceError:
            data = b""
        self.heard_at_s = trio.current_time()
        return data

    async def write(self, data):
        """In halves, as a socket that is nearly full takes it."""
        while self.is_full:
            self.changed = trio.Event()
            await self.changed.wait()
        if self.is_closed:
            raise ConnectionClosedError("closed")
        middle = len(data) // 2
        await self.near.send_all(data[:middle])
        if middle > 6:  # not for a frame without data
            self.on_half()
        await self.near.send_all(data[middle:])

    def set_full(self, is_full):
        """Whether it takes nothing, as when the peer's buffers are full."""
        self.is_full = is_full
        self.changed.set()

    async def close(self):
        self.is_closed = True
        self.set_full(False)
        await self.near.aclose()


class Holding:
    held_bytes = 0


def library(wire):
    return Yamux(wire, None, is_initiator=wire.is_initiator)


def ours(wire, **settings):
    limits = ControlSettings(**settings)
    return BoundedYamux(wire, None, wire, limits, ReceiveBudget(limits))


def run(make, body, **settings):
    """`body(muxer, wire)` with a running muxer, on a clock that jumps over all waiting."""

    async def main():
        wire = Wire()
        muxer = make(wire, **settings)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(muxer.start)
            await wait_all_tasks_blocked()
            await body(muxer, wire)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def received(wire):
    """Everything that lies on the wire now."""
    data = b""
    with trio.move_on_after(0.5):
        while more := await wire.raw.receive_some(65536):
            data += more
    return data


class TestImport:
    CODE = """
import logging, sys
from aioquic.quic.stream import QuicStreamSender
before, logger = QuicStreamSender.get_frame, logging.getLogger("libp2p")
handler = logging.NullHandler()
logger.addHandler(handler)
import {module}
print(QuicStreamSender.get_frame is before, handler in logger.handlers, logger.propagate)
"""

    def check(self, module):
        code = self.CODE.format(module=module)
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        return output.stdout.split()

    def test_library_changes_aioquic_and_logging_for_the_process_d17_d18(self):
        assert self.check("libp2p") == ["False", "False", "False"]

    def test_ours_leaves_both_as_they_were(self):
        assert self.check("transport.control.library") == ["True", "True", "True"]
        assert logging.getLogger("libp2p").propagate


class TestSlowReader:
    """D20."""

    def test_library_fails_a_write_after_five_seconds(self):
        async def body(muxer, wire):
            stream = await muxer.open_stream()
            with pytest.raises(BaseLibp2pError, match="5 seconds"):
                await stream.write(bytes(300 * 1024))

        run(library, body)

    def test_ours_waits_as_long_as_it_takes(self):
        async def body(muxer, wire):
            stream = await open_muxed(muxer)
            with trio.move_on_after(15) as waiting:
                await write_muxed(stream, bytes(300 * 1024))
            assert waiting.cancelled_caught
            await wire.raw.send_all(frame(WINDOW_UPDATE, 0, stream.stream_id, 1 << 20))
            await write_muxed(stream, bytes(300 * 1024))

        run(ours, body, idle_timeout_s=20.0, answer_timeout_s=60.0)


class TestWindow:
    """D21."""

    @staticmethod
    async def flood(muxer, wire, size):
        count = size // 65536
        data = frame(DATA, 0, 2, 65536, bytes(65536))
        await wire.raw.send_all(frame(WINDOW_UPDATE, SYN, 2, 0) + data * count)
        await wait_all_tasks_blocked()
        return sum(map(len, muxer.stream_buffers.values()))

    def test_library_holds_whatever_a_peer_sends_beyond_its_window(self):
        async def body(muxer, wire):
            assert await self.flood(muxer, wire, 4 << 20) == 4 << 20

        run(library, body)

    def test_ours_closes_the_connection(self):
        async def body(muxer, wire):
            limit = muxer.settings.connection_receive_bytes_max
            assert await self.flood(muxer, wire, 4 << 20) <= limit
            assert muxer.event_shutting_down.is_set()
            assert "windows" in muxer.end_reason

        run(ours, body, streams_max=2)

    def test_ours_bounds_all_connections_together(self):
        budget = ReceiveBudget(ControlSettings(receive_bytes_max=100))
        one, other = Holding(), Holding()
        assert budget.can_receive(one, 60)
        one.held_bytes = 60
        assert not budget.can_receive(other, 60)
        one.held_bytes = 30  # some of it was read since
        assert budget.can_receive(other, 60)
        other.held_bytes = 60
        assert not budget.can_receive(one, 20)
        budget.release(other)
        assert budget.can_receive(one, 20)


class TestEndings:
    """D22."""

    def test_library_takes_a_reset_for_the_end(self):
        async def body(muxer, wire):
            stream = await muxer.open_stream()
            await wire.raw.send_all(frame(WINDOW_UPDATE, RST, stream.stream_id, 0))
            await wait_all_tasks_blocked()
            with pytest.raises(EOFError):
                await stream.read(10)

        run(library, body)

    def test_ours_tells_a_reset(self):
        async def body(muxer, wire):
            stream = await open_muxed(muxer)
            await wire.raw.send_all(frame(WINDOW_UPDATE, RST, stream.stream_id, 0))
            await wait_all_tasks_blocked()
            with pytest.raises(StreamReset):
                await read_muxed(stream, 10)

        run(ours, body)

    def test_library_takes_a_lost_connection_for_the_end_and_forgets_what_came(self):
        async def body(muxer, wire):
            stream = await muxer.open_stream()
            await wire.raw.send_all(frame(DATA, 0, stream.stream_id, 5, b"hello"))
            await wait_all_tasks_blocked()
            await wire.raw.aclose()
            await wait_all_tasks_blocked()
            with pytest.raises(EOFError):
                await muxer.read_stream(stream.stream_id, 10)

        run(library, body)

    def test_ours_keeps_what_came_and_tells_that_the_connection_is_lost(self):
        async def body(muxer, wire):
            cut, ended = await open_muxed(muxer), await open_muxed(muxer)
            for stream, flags in ((cut, 0), (ended, FIN)):
                await wire.raw.send_all(frame(DATA, flags, stream.stream_id, 5, b"hello"))
            await wait_all_tasks_blocked()
            await wire.raw.aclose()
            await wait_all_tasks_blocked()
            assert await read_muxed(cut, 3) == b"hel"
            assert await read_muxed(cut, 3) == b"lo"
            with pytest.raises(PeerGone):
                await read_muxed(cut, 3)
            assert await read_muxed(ended, 10) == b"hello"
            assert await read_muxed(ended, 10) == b""
            with pytest.raises(PeerGone):
                await write_muxed(ended, b"x")

        run(ours, body)

    def test_library_leaves_the_reader_of_a_stream_that_it_resets_waiting(self):
        async def body(muxer, wire):
            stream = await muxer.open_stream()
            with trio.move_on_after(60) as waiting:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(muxer.read_stream, stream.stream_id, 1)
                    await wait_all_tasks_blocked()
                    await stream.reset()
            assert waiting.cancelled_caught

        run(library, body)

    def test_ours_wakes_it(self):
        async def body(muxer, wire):
            stream = await open_muxed(muxer)
            woken = trio.Event()

            async def read():
                with pytest.raises(TransportError):
                    await read_muxed(stream, 1)
                woken.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await wait_all_tasks_blocked()
                await reset_muxed(stream)
                await woken.wait()

        run(ours, body)


class TestCancelling:
    """D23."""

    @staticmethod
    async def cancel_within_a_frame(write, wire):
        """How much of 1012 bytes is sent."""
        await received(wire)
        with trio.CancelScope() as scope:
            wire.on_half = scope.cancel
            await write(bytes(1000))
        return len(await received(wire))

    def test_library_leaves_half_a_frame_when_a_write_is_cancelled(self):
        async def body(muxer, wire):
            stream = await muxer.open_stream()
            assert 506 <= await self.cancel_within_a_frame(stream.write, wire) < 1012

        run(library, body)

    def test_ours_sends_the_frame_whole(self):
        async def body(muxer, wire):
            stream = await open_muxed(muxer)

            async def write(data):
                await write_muxed(stream, data)

            assert await self.cancel_within_a_frame(write, wire) == 1012

        run(ours, body)

    SIZE = 200 * 1024

    async def cancel_a_read(self, stream, wire, read):
        """What it returns, cancelled while it tells the peer that it may send again."""
        got = None
        await wire.raw.send_all(frame(DATA, 0, stream.stream_id, self.SIZE, bytes(self.SIZE)))
        await wait_all_tasks_blocked()
        wire.set_full(True)
        with trio.move_on_after(1):
            got = await read(self.SIZE)
        wire.set_full(False)
        return got

    def test_library_loses_bytes_when_a_read_is_cancelled(self):
        async def body(muxer, wire):
            stream = await muxer.open_stream()
            assert await self.cancel_a_read(stream, wire, stream.read) is None
            assert not muxer.stream_buffers[stream.stream_id]

        run(library, body)

    def test_ours_returns_them_all_the_same(self):
        async def body(muxer, wire):
            stream = await open_muxed(muxer)

            async def read(bytes_max):
                return await read_muxed(stream, bytes_max)

            assert len(await self.cancel_a_read(stream, wire, read)) == self.SIZE

        run(ours, body)


class TestSilence:
    """D24."""

    @staticmethod
    async def an_hour(muxer, wire):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(received_for_ever, wire)
            await trio.sleep(3600)
            nursery.cancel_scope.cancel()
        return muxer.event_shutting_down.is_set()

    def test_library_keeps_a_peer_that_is_silent_for_an_hour(self):
        async def body(muxer, wire):
            assert not await self.an_hour(muxer, wire)

        run(library, body)

    def test_ours_gives_it_up(self):
        async def body(muxer, wire):
            wire.heard_at_s = trio.current_time()
            assert await self.an_hour(muxer, wire)
            assert "Nothing was heard for 12 s" in muxer.end_reason

        run(ours, body)


async def received_for_ever(wire):
    while await wire.raw.receive_some(65536):
        pass


class TestResetUnread:
    """D28."""

    @staticmethod
    async def reset_many(muxer, wire, reset):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(received_for_ever, wire)
            for _ in range(10):
                stream = await muxer.open_stream()
                await wire.raw.send_all(frame(DATA, 0, stream.stream_id, 5, b"never"))
                await wait_all_tasks_blocked()
                await reset(stream)
            await trio.sleep(20)
            nursery.cancel_scope.cancel()
        return len(muxer.streams)

    def test_library_keeps_a_place_for_each(self):
        async def body(muxer, wire):
            assert await self.reset_many(muxer, wire, lambda stream: stream.reset()) == 10

        run(library, body)

    def test_ours_keeps_none(self):
        async def body(muxer, wire):
            assert await self.reset_many(muxer, wire, reset_muxed) == 0

        run(ours, body, idle_timeout_s=3600.0, answer_timeout_s=3600.0)

    def test_nor_for_what_comes_while_it_is_reset(self):
        async def body(muxer, wire):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(received_for_ever, wire)
                stream = await muxer.open_stream()
                data = frame(DATA, 0, stream.stream_id, 5, b"never")
                await wire.raw.send_all(data)
                await wait_all_tasks_blocked()
                async with muxer.streams_lock:
                    # one waits behind the other: the reset, then the reader of the next frame
                    nursery.start_soon(reset_muxed, stream)
                    await wait_all_tasks_blocked()
                    await wire.raw.send_all(data)
                    await wait_all_tasks_blocked()
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            assert len(muxer.streams) == 0

        run(ours, body, idle_timeout_s=3600.0, answer_timeout_s=3600.0)


class TestFullPipes:
    """D25."""

    @staticmethod
    async def data_behind_a_ping(muxer, wire, stream_id):
        """While nothing can be written, as when the peer's buffers are full."""
        wire.set_full(True)
        await wire.raw.send_all(frame(PING, SYN, 0, 7))
        await wire.raw.send_all(frame(DATA, 0, stream_id, 5, b"hello"))
        await wait_all_tasks_blocked()
        came = bytes(muxer.stream_buffers[stream_id])
        wire.set_full(False)
        return came

    def test_library_reads_nothing_until_its_answer_to_a_ping_is_written(self):
        async def body(muxer, wire):
            stream = await muxer.open_stream()
            assert await self.data_behind_a_ping(muxer, wire, stream.stream_id) == b""

        run(library, body)

    def test_ours_reads_on_and_answers_later(self):
        async def body(muxer, wire):
            stream = await open_muxed(muxer)
            await received(wire)
            assert await self.data_behind_a_ping(muxer, wire, stream.stream_id) == b"hello"
            assert frame(PING, ACK, 0, 7) in await received(wire)

        run(ours, body)

    def test_ours_bounds_the_answers_that_a_peer_does_not_read(self):
        async def body(muxer, wire):
            wire.set_full(True)
            await wire.raw.send_all(frame(PING, SYN, 0, 7) * 50)
            await wait_all_tasks_blocked()
            assert muxer.event_shutting_down.is_set()
            assert "does not read" in muxer.end_reason

        run(ours, body, control_frames_max=10)


class Drops:
    """A source that gives its bytes one at a time."""

    def __init__(self, data):
        self.data = data
        self.given = 0

    async def receive(self, bytes_max):
        await trio.lowlevel.checkpoint()
        self.given += 1
        return self.data[self.given - 1 : self.given]

    read = receive


class TestPieces:
    """D26."""

    def test_library_breaks_a_message_that_comes_in_many_pieces(self):
        from libp2p.io.exceptions import IncompleteReadError
        from libp2p.io.utils import read_exactly

        async def main():
            with pytest.raises(IncompleteReadError):
                await read_exactly(Drops(bytes(200)), 200)

        trio.run(main)

    def test_ours_reads_it_whole(self):
        async def main():
            pipe = Pipe(Drops(bytes(200)), ControlSettings())
            assert await pipe.read(150) == bytes(150)
            assert await pipe.read(100) == bytes(50)

        trio.run(main)


class TestLengths:
    """D27."""

    class Endless:
        """Says that a gigabyte follows, and sends it."""

        given = 0
        head = b"\x80\x80\x80\x80\x04"

        async def receive(self, bytes_max):
            if self.given > 32 << 20:
                raise EOFError
            await trio.lowlevel.checkpoint()
            data, self.head = self.head, b""
            data = data[:bytes_max] or bytes(min(bytes_max, 1 << 20))
            self.head = b"" if len(data) > 5 else TestLengths.Endless.head[self.given + 1 :]
            self.given += len(data)
            return data

        read = receive

    def test_library_takes_a_gigabyte_of_handshake(self):
        from libp2p.utils import read_delim

        source = self.Endless()

        async def main():
            with pytest.raises(EOFError):
                await read_delim(source)

        trio.run(main)
        assert source.given > 32 << 20

    def test_ours_stops_at_its_limit(self):
        from libp2p.utils import read_delim

        source = self.Endless()

        async def main():
            pipe = Pipe(source, ControlSettings())
            with pytest.raises(BaseLibp2pError, match="too much"):
                await read_delim(pipe)

        trio.run(main)
        assert source.given < 256 << 10
