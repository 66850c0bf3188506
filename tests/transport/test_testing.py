"""`FakeNetwork` keeps the promises of the real interface, and of its NATs."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from protocol.errors import LocalProtocolError
from transport.address import Address
from transport.base import PathKind, Stream
from transport.errors import DialFailed, PeerGone, ProtocolNotSupported, StreamReset
from transport.fake_link import UNREAD_BYTES_MAX
from transport.testing import NAT, FakeHost, FakeNetwork, FakeStream, run_virtual

ECHO = "/test/echo/1"


async def echo(stream: Stream) -> None:
    while (frame := await stream.receive()) is not None:
        await stream.send(frame)


def virtually(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test with a jumping clock."""

    def run(self) -> None:
        run_virtual(test(self))

    return run


def pair(network: FakeNetwork) -> tuple[FakeHost, FakeHost]:
    here, there = network.host(), network.host()
    there.set_handler(ECHO, echo)
    return here, there


async def open_echo(here: FakeHost, there: FakeHost) -> FakeStream:
    connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
    return await connection.open_stream(ECHO)


def now() -> float:
    return asyncio.get_running_loop().time()


class TestStreams:
    @virtually
    async def test_echo_takes_one_round_trip(self):
        network = FakeNetwork(delay_s=0.05)
        stream = await open_echo(*pair(network))
        assert now() == pytest.approx(0.1)  # the handshake
        await stream.send(b"head", b"body")
        assert await stream.receive() == b"headbody"
        assert now() == pytest.approx(0.2)
        assert network.frame_count == 2
        stream.finish()
        assert await stream.receive() is None
        assert await stream.receive() is None

    @virtually
    async def test_losses_delay_frames_and_keep_their_order(self):
        network = FakeNetwork(delay_s=0.05, loss=0.3, seed=3)
        stream = await open_echo(*pair(network))
        began = now()
        for index in range(50):
            await stream.send(bytes([index]))
        assert [await stream.receive() for _ in range(50)] == [bytes([i]) for i in range(50)]
        assert now() - began > 0.15

    @virtually
    async def test_slow_reader_stops_its_writer(self):
        network = FakeNetwork()
        here, there = pair(network)
        streams: list[Stream] = []

        async def hold(stream: Stream) -> None:
            streams.append(stream)
            await asyncio.sleep(100)
            while await stream.receive() is not None:
                pass

        there.set_handler("/hold", hold)
        connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
        stream = await connection.open_stream("/hold")

        async def write() -> None:
            for _ in range(60):
                await stream.send(bytes(100_000))
            stream.finish()

        writer = asyncio.create_task(write())
        await asyncio.sleep(50)
        assert not writer.done()
        assert stream.statistics().unacknowledged_bytes <= UNREAD_BYTES_MAX + 100_004
        await writer
        assert now() >= 100
        assert await stream.receive() is None

    @virtually
    async def test_unknown_protocol_is_not_supported(self):
        here, there = pair(FakeNetwork(delay_s=0.01))
        connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
        stream = await connection.open_stream("/unknown")
        await stream.send(b"x")
        with pytest.raises(ProtocolNotSupported):
            await stream.receive()

    @virtually
    async def test_reset_is_seen_with_its_code(self):
        here, there = pair(FakeNetwork(delay_s=0.01))
        seen: list[int] = []

        async def expect_reset(stream: Stream) -> None:
            try:
                await stream.receive()
            except StreamReset as error:
                seen.append(error.code)

        there.set_handler("/reset", expect_reset)
        connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
        stream = await connection.open_stream("/reset")
        await asyncio.sleep(1)
        stream.reset(9)
        with pytest.raises(StreamReset):
            await stream.send(b"x")
        await asyncio.sleep(1)
        assert seen == [9]

    @virtually
    async def test_failing_handler_resets_and_returning_one_stops_reading(self):
        here, there = pair(FakeNetwork(delay_s=0.01))

        async def give_up(stream: Stream) -> None:
            raise LocalProtocolError("no")

        async def return_at_once(stream: Stream) -> None:
            await stream.receive()

        there.set_handler("/fail", give_up)
        there.set_handler("/return", return_at_once)
        connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
        with pytest.raises(StreamReset):
            await (await connection.open_stream("/fail")).receive()
        stream = await connection.open_stream("/return")
        await stream.send(b"x")
        assert await stream.receive() is None
        with pytest.raises(StreamReset):
            await stream.send(b"y")

    @virtually
    async def test_nothing_is_sent_after_finish(self):
        stream = await open_echo(*pair(FakeNetwork()))
        stream.finish()
        with pytest.raises(LocalProtocolError):
            await stream.send(b"x")


class TestConnect:
    @virtually
    async def test_living_connection_is_reused_from_both_ends(self):
        here, there = pair(FakeNetwork())
        first = await here.connect(there.peer_id, there.addresses, timeout_s=5)
        assert await here.connect(there.peer_id, (), timeout_s=5) is first
        back = await there.connect(here.peer_id, (), timeout_s=5)
        assert back.peer_id == here.peer_id

    @virtually
    async def test_wrong_address_is_a_dial_failure(self):
        here, there = pair(FakeNetwork())
        with pytest.raises(DialFailed, match="no address known"):
            await here.connect(there.peer_id, (), timeout_s=5)
        elsewhere = Address("192.0.2.1", 1, there.peer_id)
        with pytest.raises(DialFailed, match="no answer"):
            await here.connect(there.peer_id, [elsewhere], timeout_s=5)

    @pytest.mark.parametrize(
        ("dialler", "target", "can_punch", "kind"),
        [
            (NAT.NONE, NAT.NONE, False, PathKind.DIRECT),
            (NAT.SYMMETRIC, NAT.FULL_CONE, False, PathKind.DIRECT),
            (NAT.NONE, NAT.PORT_RESTRICTED, False, None),
            (NAT.NONE, NAT.PORT_RESTRICTED, True, PathKind.PUNCHED),
            (NAT.PORT_RESTRICTED, NAT.PORT_RESTRICTED, True, PathKind.PUNCHED),
            (NAT.PORT_RESTRICTED, NAT.SYMMETRIC, True, None),
            (NAT.SYMMETRIC, NAT.SYMMETRIC, True, None),
            (NAT.UDP_BLOCKED, NAT.NONE, True, None),
            (NAT.NONE, NAT.UDP_BLOCKED, True, None),
        ],
    )
    def test_nats_decide_as_measured(self, dialler, target, can_punch, kind):
        async def main() -> None:
            network = FakeNetwork(can_punch=can_punch)
            here, there = network.host(nat=dialler), network.host(nat=target)
            if kind is None:
                with pytest.raises(DialFailed, match=r"NAT|punching|blocked"):
                    await here.connect(there.peer_id, there.addresses, timeout_s=5)
            else:
                connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
                assert connection.path_kind is kind

        run_virtual(main())

    @virtually
    async def test_one_lan_needs_no_nat_traversal(self):
        network = FakeNetwork()
        here = network.host(nat=NAT.SYMMETRIC, lan="home")
        there = network.host(nat=NAT.SYMMETRIC, lan="home")
        connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
        assert connection.path_kind is PathKind.LAN


class TestFaults:
    @virtually
    async def test_cut_line_is_noticed_after_the_idle_timeout(self):
        network = FakeNetwork(delay_s=0.01, idle_timeout_s=20)
        here, there = pair(network)
        stream = await open_echo(here, there)
        network.cut(here.peer_id, there.peer_id)
        began = now()
        await stream.send(b"x")
        with pytest.raises(PeerGone):
            await stream.receive()
        assert now() - began == pytest.approx(20)
        assert not here.connections()
        assert not there.connections()
        with pytest.raises(DialFailed):
            await here.connect(there.peer_id, there.addresses, timeout_s=5)

    @virtually
    async def test_healed_line_delivers_what_was_held(self):
        network = FakeNetwork(delay_s=0.01)
        here, there = pair(network)
        stream = await open_echo(here, there)
        network.cut(here.peer_id, there.peer_id)
        for index in range(3):
            await stream.send(bytes([index]))
        await asyncio.sleep(10)
        network.heal(here.peer_id, there.peer_id)
        assert [await stream.receive() for _ in range(3)] == [b"\0", b"\1", b"\2"]
        await asyncio.sleep(30)
        assert here.connections()

    @virtually
    async def test_killed_host_is_noticed_late_and_closed_one_at_once(self):
        network = FakeNetwork(delay_s=0.01, idle_timeout_s=20)
        for silent, expected_s in ((True, 20), (False, 0.01)):
            here, there = pair(network)
            stream = await open_echo(here, there)
            began = now()
            await network.kill(there.peer_id, silent=silent)
            with pytest.raises(PeerGone):
                await stream.receive()
            assert now() - began == pytest.approx(expected_s, abs=0.02)
            assert not there.handlers.task_count
