"""Streams over TCP + TLS between two hosts on loopback: they behave as streams over QUIC do."""

import asyncio
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import uvloop

from tests.transport.conftest import ECHO, StartHost, echo
from tests.transport.lan_pair import lan_pair
from transport.address import Address
from transport.base import Connection, PathKind, Stream
from transport.errors import PeerGone, ProtocolNotSupported, StreamReset
from transport.lan.fast_lan import FastLan
from transport.lan.settings import LanSettings, StreamLimits
from transport.lan.verdict import LanCarrierKind
from transport.lan.wire import LAN_PROTOCOL, Offer
from transport.quic.seams import ResetCode
from transport.quic.settings import QuicSettings

TEST = "/test/lan/1"
MIB = 1024 * 1024

CHILD = """
import asyncio
from protocol.identity import KeyPair
from transport.lan.fast_lan import FastLan
from transport.quic.host import QuicHost

async def echo(stream):
    while (frame := await stream.receive()) is not None:
        await stream.send(frame)

async def main():
    host = await QuicHost.start(KeyPair.generate(), listen_host="127.0.0.1")
    fast_lan = await FastLan.start(host, "127.0.0.1")
    host.set_handler("/test/echo/1", echo)
    print(host.addresses[0], flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def eventually(condition, timeout_s: float = 3.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


class Served:
    """A handler whose streams the test itself uses."""

    def __init__(self) -> None:
        self.streams: asyncio.Queue[Stream] = asyncio.Queue()
        self.release = asyncio.Event()

    async def __call__(self, stream: Stream) -> None:
        self.streams.put_nowait(stream)
        await self.release.wait()


class TestOpen:
    async def test_stream_carries_frames_of_every_size_in_order(self):
        async with lan_pair() as pair:
            stream = await pair.open()
            assert stream.path_kind is PathKind.LAN
            assert stream.peer_id == pair.there.peer_id
            for size in (0, 1, 16384, 65532, 65537, 3 * MIB + 1):
                frame = bytes([size % 251]) * size
                await stream.send(frame[: size // 2], frame[size // 2 :])
                assert await stream.receive() == frame
            for number in range(500):
                await stream.send(number.to_bytes(2, "big"))
            for number in range(500):
                assert await stream.receive() == number.to_bytes(2, "big")
            statistics = stream.statistics()
            assert statistics.frames_sent == statistics.frames_received == 506
            assert statistics.bytes_sent == statistics.bytes_received > 3 * MIB
            assert statistics.unacknowledged_bytes == 0

    async def test_handler_knows_the_verified_peer(self):
        async with lan_pair() as pair:
            served = Served()
            pair.there.set_handler(TEST, served)
            stream = await pair.open(TEST)
            incoming = await served.streams.get()
            assert incoming.peer_id == pair.here.peer_id
            assert incoming.path_kind is PathKind.LAN
            await incoming.send(b"hello")
            assert await stream.receive() == b"hello"

    async def test_both_carriers_are_measured_and_the_faster_is_kept(self):
        async with lan_pair() as pair:
            await pair.open()
            (verdict,) = pair.fast_here.verdicts()
            assert verdict.peer_id == pair.there.peer_id
            assert verdict.path == "127.0.0.1"
            assert verdict.tcp_echo_s
            assert verdict.quic_echo_s
            assert verdict.carrier is LanCarrierKind.TCP
            await pair.open()
            assert pair.fast_here.verdicts() == (verdict,)

    async def test_many_streams_opened_at_once_all_come(self):
        async with lan_pair() as pair:
            streams = await asyncio.gather(*(pair.open() for _ in range(30)))
            for number, stream in enumerate(streams):
                await stream.send(bytes([number]))
            for number, stream in enumerate(streams):
                assert await stream.receive() == bytes([number])
            assert pair.fast_there.counts.tickets_refused == 0

    async def test_both_sides_open(self):
        async with lan_pair() as pair:
            pair.here.set_handler(ECHO, echo)
            (back,) = pair.there.connections()
            stream = await pair.fast_there.open(back, ECHO)
            await stream.send(b"x")
            assert await stream.receive() == b"x"

    async def test_unknown_protocol_is_refused_on_the_stream(self):
        async with lan_pair() as pair:
            stream = await pair.open("/test/nobody/1")
            with pytest.raises(ProtocolNotSupported):
                await stream.receive()
            with pytest.raises(ProtocolNotSupported):
                await stream.send(b"x")

    async def test_spare_ticket_near_its_end_is_replaced(self):
        async with lan_pair(LanSettings(ticket_lifetime_s=2.05)) as pair:
            await pair.open()
            await asyncio.sleep(0.1)
            await pair.open()
            assert pair.fast_there.counts.tickets_refused == 0

    async def test_path_that_changes_is_measured_anew(self):
        async with lan_pair(listen_host="0.0.0.0") as pair:
            await pair.open()
            (before,) = pair.fast_here.verdicts()
            moved = _Moved(pair.connection, "127.0.0.2:4001")
            assert await pair.fast_here.open(moved, ECHO) is not None
            (after,) = pair.fast_here.verdicts()
            assert (before.path, after.path) == ("127.0.0.1", "127.0.0.2")
            assert after.decided_at > before.decided_at


class _Moved:
    """A connection whose path leads to another address now."""

    path_kind = PathKind.LAN

    def __init__(self, connection: Connection, remote: str) -> None:
        self.peer_id, self.open_stream = connection.peer_id, connection.open_stream
        self.remote = remote


class TestNoFastPath:
    async def test_peer_without_it_is_remembered_with_the_reason(self):
        async with lan_pair() as pair:
            await pair.fast_there.close()
            assert await pair.fast_here.open(pair.connection, ECHO) is None
            (verdict,) = pair.fast_here.verdicts()
            assert verdict.carrier is LanCarrierKind.QUIC
            assert "does not speak" in verdict.reason
            assert await pair.fast_here.open(pair.connection, ECHO) is None
            assert pair.fast_here.verdicts() == (verdict,)

    async def test_blocked_tcp_is_remembered_and_tried_again_in_the_background(
        self, start_host: StartHost
    ):
        async def offer_a_port_that_nobody_listens_on(control: Stream) -> None:
            await control.receive()
            await control.send(Offer(1, bytes(32), 60_000, (), (bytes(32),)).encode())

        here, there = await start_host(), await start_host()
        there.set_handler(LAN_PROTOCOL, offer_a_port_that_nobody_listens_on)
        fast_here = await FastLan.start(here, "127.0.0.1", settings=LanSettings(retry_after_s=0.0))
        connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
        assert await fast_here.open(connection, ECHO) is None
        (verdict,) = fast_here.verdicts()
        assert "TCP to the peer is blocked (127.0.0.1" in verdict.reason

        fast_there = await FastLan.start(there, "127.0.0.1")  # somebody opens the firewall
        async with asyncio.timeout(5):
            while await fast_here.open(connection, ECHO) is None:
                await asyncio.sleep(0.01)
        (verdict,) = fast_here.verdicts()
        assert verdict.carrier is LanCarrierKind.TCP
        await fast_here.close()
        await fast_there.close()

    async def test_path_that_is_no_lan_has_none(self):
        class Far:
            path_kind = PathKind.RELAYED

        async with lan_pair() as pair:
            assert await pair.fast_here.open(Far(), ECHO) is None
            assert pair.fast_here.verdicts() == ()

    async def test_limit_of_streams_leaves_the_rest_to_quic(self):
        async with lan_pair(LanSettings(streams_max=3)) as pair:
            streams = [await pair.open() for _ in range(3)]
            assert await pair.fast_here.open(pair.connection, ECHO) is None
            streams[0].finish()
            assert await streams[0].receive() is None
            await eventually(
                lambda: pair.fast_here._links[pair.connection].session.stream_count < 3
            )
            await pair.open()


class TestEnd:
    async def test_finish_lets_the_other_direction_go_on(self):
        async with lan_pair() as pair:
            served = Served()
            pair.there.set_handler(TEST, served)
            stream = await pair.open(TEST)
            incoming = await served.streams.get()
            await stream.send(b"last")
            stream.finish()
            assert await incoming.receive() == b"last"
            assert await incoming.receive() is None
            await incoming.send(bytes(MIB))
            incoming.finish()
            assert await stream.receive() == bytes(MIB)
            assert await stream.receive() is None
            link = pair.fast_here._links[pair.connection]
            await eventually(lambda: link.session.stream_count == 0)

    async def test_all_that_was_sent_before_finishing_arrives_at_a_slow_reader(self):
        async with lan_pair() as pair:
            served = Served()
            pair.there.set_handler(TEST, served)
            stream = await pair.open(TEST)
            incoming = await served.streams.get()
            incoming.finish()
            for number in range(20):
                await stream.send(bytes([number]) * 40_000)
            stream.finish()
            assert await stream.receive() is None
            await asyncio.sleep(0.1)
            for number in range(20):
                assert await incoming.receive() == bytes([number]) * 40_000
            assert await incoming.receive() is None

    async def test_reset_is_seen_with_its_code_by_reader_and_writer(self):
        async with lan_pair() as pair:
            served = Served()
            pair.there.set_handler(TEST, served)
            stream = await pair.open(TEST)
            incoming = await served.streams.get()
            waiting = asyncio.create_task(stream.receive())
            await asyncio.sleep(0)
            incoming.reset(77)
            with pytest.raises(StreamReset) as seen:
                await waiting
            assert seen.value.code == 77
            with pytest.raises(StreamReset) as seen:
                await stream.send(b"x")
            assert seen.value.code == 77
            link = pair.fast_here._links[pair.connection]
            await eventually(lambda: link.session.stream_count == 0)

    async def test_reset_ends_a_writer_who_waits_for_a_reader(self):
        async with lan_pair() as pair:
            served = Served()
            pair.there.set_handler(TEST, served)
            stream = await pair.open(TEST)
            incoming = await served.streams.get()

            async def write() -> None:
                while True:
                    await stream.send(bytes(100_000))

            writing = asyncio.create_task(write())
            await asyncio.sleep(0.1)
            assert not writing.done()
            incoming.reset(5)
            with pytest.raises(StreamReset):
                await asyncio.wait_for(writing, 2)

    async def test_handler_that_returns_closes_the_stream(self):
        async with lan_pair() as pair:

            async def answer_once(stream: Stream) -> None:
                await stream.send(await stream.receive())

            pair.there.set_handler(TEST, answer_once)
            stream = await pair.open(TEST)
            await stream.send(b"x")
            assert await stream.receive() == b"x"
            assert await stream.receive() is None
            await eventually(lambda: stream._sending.error is not None)
            with pytest.raises(StreamReset) as seen:
                await stream.send(b"y")
            assert seen.value.code == ResetCode.NOT_READ
            link = pair.fast_here._links[pair.connection]
            await eventually(lambda: link.session.stream_count == 0)

    async def test_send_cancelled_within_a_frame_resets(self):
        async with lan_pair() as pair:
            served = Served()
            pair.there.set_handler(TEST, served)
            stream = await pair.open(TEST)
            incoming = await served.streams.get()
            await stream.send(bytes(2 * MIB))
            sending = asyncio.create_task(stream.send(bytes(16 * MIB)))
            await asyncio.sleep(0.1)
            assert not sending.done()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert await incoming.receive() == bytes(2 * MIB)
            with pytest.raises(StreamReset) as seen:
                await incoming.receive()
            assert seen.value.code == ResetCode.CANCELLED

    async def test_tcp_that_dies_is_a_peer_that_is_gone(self):
        async with lan_pair() as pair:
            served = Served()
            pair.there.set_handler(TEST, served)
            stream = await pair.open(TEST)
            incoming = await served.streams.get()
            await incoming.send(b"said before")
            await eventually(lambda: stream.has_frame)
            incoming._carrier.abort()
            assert await stream.receive() == b"said before"
            with pytest.raises(PeerGone):
                await stream.receive()
            with pytest.raises(PeerGone):
                await stream.send(b"x")

    async def test_streams_end_with_the_connection_that_vouched_for_them(self):
        async with lan_pair() as pair:
            served = Served()
            pair.there.set_handler(TEST, served)
            stream = await pair.open(TEST)
            incoming = await served.streams.get()
            both = asyncio.gather(stream.receive(), incoming.receive(), return_exceptions=True)
            await pair.connection.close()
            assert [type(error) for error in await asyncio.wait_for(both, 2)] == [PeerGone] * 2
            assert await pair.fast_here.open(pair.connection, TEST) is None

    @pytest.mark.parametrize("last_signal", [signal.SIGSTOP, signal.SIGKILL])
    async def test_frozen_or_killed_peer_is_gone(self, start_host: StartHost, last_signal):
        """A frozen one keeps its TCP connection; only QUIC notices."""
        here = await start_host(QuicSettings(keepalive_s=0.1, idle_timeout_s=0.5))
        fast_here = await FastLan.start(here, "127.0.0.1")
        child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE)
        try:
            line = await asyncio.to_thread(child.stdout.readline)
            address = Address.from_text(line.decode().strip())
            connection = await here.connect(address.peer_id, [address], timeout_s=5)
            stream = await fast_here.open(connection, ECHO)
            await stream.send(b"x")
            assert await stream.receive() == b"x"
            child.send_signal(last_signal)
            with pytest.raises(PeerGone):
                await asyncio.wait_for(stream.receive(), 3)
        finally:
            await fast_here.close()
            child.kill()
            child.wait()
            child.stdout.close()

    async def test_closing_either_fast_path_ends_its_streams(self):
        async with lan_pair() as pair:
            stream = await pair.open()
            await pair.fast_there.close()
            with pytest.raises((PeerGone, StreamReset)):
                await asyncio.wait_for(stream.receive(), 2)
            assert await pair.fast_here.open(pair.connection, ECHO) is None
            over_quic = await pair.connection.open_stream(ECHO)
            await over_quic.send(b"x")
            assert await over_quic.receive() == b"x"


class TestBackPressure:
    async def test_slow_reader_slows_its_writer_and_bounds_memory(self):
        limits = StreamLimits(unacknowledged_bytes_max=128 * 1024, read_ahead_bytes=64 * 1024)
        async with lan_pair(replace(LanSettings(), stream=limits)) as pair:
            served = Served()
            pair.there.set_handler(TEST, served)
            stream = await pair.open(TEST)
            incoming = await served.streams.get()
            sent = 0

            async def write() -> None:
                nonlocal sent
                for number in range(1000):
                    await stream.send(bytes([number % 251]) * 50_000)
                    sent += 1

            writing = asyncio.create_task(write())
            await asyncio.sleep(0.3)
            stuck_at = sent
            await asyncio.sleep(0.1)
            assert sent == stuck_at < 400  # the rest is in the kernel's buffers
            held = incoming._receiving._reader.buffered_bytes
            assert held < limits.read_ahead_bytes + 300 * 1024
            assert stream.statistics().unacknowledged_bytes > 0
            for number in range(1000):
                assert await incoming.receive() == bytes([number % 251]) * 50_000
            await writing

    async def test_frame_above_the_read_ahead_passes_whole(self):
        limits = StreamLimits(read_ahead_bytes=1024)
        async with lan_pair(replace(LanSettings(), stream=limits)) as pair:
            stream = await pair.open()
            for _ in range(3):
                await stream.send(bytes(500))
                await stream.send(bytes(5 * MIB))
                assert await stream.receive() == bytes(500)
                assert await stream.receive() == bytes(5 * MIB)


WITHOUT_FIXTURES = [
    pytest.param(test, id=name)
    for group in (TestOpen, TestEnd, TestBackPressure)
    for name, test in vars(group).items()
    if name.startswith("test_") and test.__code__.co_argcount == 1
]


@pytest.mark.parametrize("test", WITHOUT_FIXTURES)
def test_is_the_same_on_the_event_loop_that_nodes_use(test):
    uvloop.run(test(None))
