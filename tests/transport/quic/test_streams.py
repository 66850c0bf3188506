"""What a slow, rude or failing stream does, and what it must not do to its neighbours."""

import asyncio

import pytest

from protocol.errors import LocalProtocolError, RemoteProtocolError
from tests.transport.conftest import ECHO, StartHost
from transport.base import Connection, Stream
from transport.errors import FrameTooLarge, StreamReset, TransportError
from transport.quic.seams import ResetCode
from transport.quic.settings import QuicSettings

MIB = 1024 * 1024
HOLD = "/test/hold/1"


async def connect(start_host: StartHost, settings: QuicSettings | None = None):
    here, there = await start_host(settings), await start_host(settings)
    return await here.connect(there.peer_id, there.addresses, timeout_s=5), there


async def assert_echo(connection: Connection) -> None:
    stream = await connection.open_stream(ECHO)
    async with asyncio.timeout(5):
        await stream.send(b"still here")
        assert await stream.receive() == b"still here"
    stream.finish()


class TestBackPressure:
    async def test_slow_reader_stops_its_writer_and_memory_stays_bounded(
        self, start_host: StartHost
    ):
        settings = QuicSettings(
            frame_bytes_max=MIB,
            stream_window_bytes=2 * MIB,
            connection_window_bytes=8 * MIB,
            unacknowledged_bytes_max=MIB,
        )
        connection, there = await connect(start_host, settings)
        held: list[Stream] = []
        may_read = asyncio.Event()

        async def read_later(stream: Stream) -> None:
            held.append(stream)
            await may_read.wait()
            while await stream.receive() is not None:
                pass

        there.set_handler(HOLD, read_later)
        stream = await connection.open_stream(HOLD)
        sent = 0

        async def write() -> None:
            nonlocal sent
            for _ in range(200):
                await stream.send(b"x" * 100_000)
                sent += 100_000
            stream.finish()

        writer = asyncio.create_task(write())
        await asyncio.sleep(0.5)
        assert not writer.done()
        assert sent <= 2 * MIB + MIB + 300_000
        assert held[0]._receiving._reader.buffered_bytes <= 2 * MIB  # type: ignore[attr-defined]
        assert stream.statistics().unacknowledged_bytes <= MIB + 100_004
        await assert_echo(connection)
        may_read.set()
        async with asyncio.timeout(20):
            await writer
            assert await stream.receive() is None

    async def test_many_unread_streams_share_one_window(self, start_host: StartHost):
        settings = QuicSettings(
            frame_bytes_max=MIB, stream_window_bytes=2 * MIB, connection_window_bytes=3 * MIB
        )
        connection, there = await connect(start_host, settings)
        held: list[Stream] = []

        async def never_read(stream: Stream) -> None:
            held.append(stream)
            await asyncio.Event().wait()

        there.set_handler(HOLD, never_read)
        streams = [await connection.open_stream(HOLD) for _ in range(4)]

        async def write(stream: Stream) -> None:
            for _ in range(40):
                await stream.send(b"x" * 100_000)

        writers = [asyncio.create_task(write(stream)) for stream in streams]
        await asyncio.sleep(0.5)
        held_bytes = sum(s._receiving._reader.buffered_bytes for s in held)  # type: ignore[attr-defined]
        assert held_bytes <= 3 * MIB
        for stream in streams:
            stream.reset(7)
        for result in await asyncio.gather(*writers, return_exceptions=True):
            assert isinstance(result, StreamReset)
        # What the reset streams held is given back to the connection.
        for _ in range(3):
            await assert_echo(connection)
        stream = await connection.open_stream(ECHO)
        async with asyncio.timeout(10):
            await stream.send(b"x" * MIB)
            assert await stream.receive() == b"x" * MIB

    async def test_window_lasts_for_many_times_its_size(self, start_host: StartHost):
        settings = QuicSettings(
            frame_bytes_max=64 * 1024,
            stream_window_bytes=128 * 1024,
            connection_window_bytes=256 * 1024,
        )
        connection, _ = await connect(start_host, settings)
        stream = await connection.open_stream(ECHO)
        frame = b"y" * 64 * 1024
        async with asyncio.timeout(20):
            for _ in range(100):
                await stream.send(frame)
                assert await stream.receive() == frame


class TestOversizedFrame:
    async def test_it_resets_its_stream_only(self, start_host: StartHost):
        large, small = QuicSettings(), QuicSettings(frame_bytes_max=100_000)
        here, there = await start_host(large), await start_host(small)
        errors: list[TransportError] = []

        async def read(stream: Stream) -> None:
            try:
                while await stream.receive() is not None:
                    pass
            except TransportError as error:
                errors.append(error)
                raise

        there.set_handler(HOLD, read)
        connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
        stream = await connection.open_stream(HOLD)
        async with asyncio.timeout(5):
            await stream.send(b"x" * 100_001)
            with pytest.raises(StreamReset) as raised:
                await stream.receive()
        assert raised.value.code == ResetCode.FRAME_TOO_LARGE
        assert isinstance(errors[0], FrameTooLarge)
        await assert_echo(connection)

    async def test_our_own_is_a_bug_and_harms_nothing(self, start_host: StartHost):
        connection, _ = await connect(start_host, QuicSettings(frame_bytes_max=1000))
        stream = await connection.open_stream(ECHO)
        with pytest.raises(LocalProtocolError):
            await stream.send(b"x" * 1001)
        await stream.send(b"x" * 1000)
        assert await stream.receive() == b"x" * 1000


class TestReset:
    async def test_the_peer_sees_the_code_in_both_directions(self, start_host: StartHost):
        connection, there = await connect(start_host)
        seen: asyncio.Queue[object] = asyncio.Queue()

        async def expect_reset(stream: Stream) -> None:
            await stream.send(b"ready")
            for attempt in (stream.receive(), stream.send(b"x")):
                try:
                    await attempt
                except StreamReset as error:
                    seen.put_nowait(error.code)

        there.set_handler(HOLD, expect_reset)
        stream = await connection.open_stream(HOLD)
        assert await stream.receive() == b"ready"
        stream.reset(42)
        async with asyncio.timeout(5):
            assert [await seen.get(), await seen.get()] == [42, 42]
        with pytest.raises(StreamReset):
            await stream.receive()
        with pytest.raises(StreamReset):
            await stream.send(b"x")
        await assert_echo(connection)

    @pytest.mark.parametrize("error", [ValueError("a bug"), RemoteProtocolError("their bug")])
    async def test_failing_handler_resets_its_stream(self, start_host: StartHost, error, caplog):
        connection, there = await connect(start_host)

        async def fail(stream: Stream) -> None:
            raise error

        there.set_handler(HOLD, fail)
        stream = await connection.open_stream(HOLD)
        with pytest.raises(StreamReset) as raised:
            await stream.receive()
        assert raised.value.code == ResetCode.HANDLER_FAILED
        assert ("a bug" in caplog.text) == isinstance(error, ValueError)
        await assert_echo(connection)

    async def test_returning_handler_finishes_and_reads_no_more(self, start_host: StartHost):
        connection, there = await connect(start_host)

        async def answer_once(stream: Stream) -> None:
            await stream.receive()
            await stream.send(b"answer")

        there.set_handler(HOLD, answer_once)
        stream = await connection.open_stream(HOLD)
        await stream.send(b"question")
        assert await stream.receive() == b"answer"
        assert await stream.receive() is None
        await asyncio.sleep(0.1)
        with pytest.raises(StreamReset) as raised:
            await stream.send(b"x" * 10_000)
        assert raised.value.code == ResetCode.NOT_READ

    async def test_cancelled_half_frame_resets_the_stream(self, start_host: StartHost):
        settings = QuicSettings(unacknowledged_bytes_max=300_000)
        connection, there = await connect(start_host, settings)
        outcome: asyncio.Queue[object] = asyncio.Queue()

        async def read(stream: Stream) -> None:
            try:
                outcome.put_nowait(await stream.receive())
            except StreamReset as error:
                outcome.put_nowait(error.code)

        there.set_handler(HOLD, read)
        stream = await connection.open_stream(HOLD)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await stream.send(b"x" * 8 * MIB)
        async with asyncio.timeout(5):
            assert await outcome.get() == ResetCode.CANCELLED


class TestMisuse:
    async def test_nothing_is_sent_after_finish(self, start_host: StartHost):
        connection, _ = await connect(start_host)
        stream = await connection.open_stream(ECHO)
        stream.finish()
        stream.finish()
        with pytest.raises(LocalProtocolError):
            await stream.send(b"x")
        assert await stream.receive() is None

    async def test_two_readers_are_a_bug(self, start_host: StartHost):
        connection, _ = await connect(start_host)
        stream = await connection.open_stream(ECHO)
        first = asyncio.create_task(stream.receive())
        await asyncio.sleep(0)
        with pytest.raises(LocalProtocolError):
            await stream.receive()
        await stream.send(b"x")
        assert await first == b"x"

    async def test_streams_of_ours_are_bounded(self, start_host: StartHost):
        connection, _ = await connect(start_host, QuicSettings(streams_max=3))
        for _ in range(3):
            await connection.open_stream(ECHO)
        with pytest.raises(TransportError, match="3 streams"):
            await connection.open_stream(ECHO)
