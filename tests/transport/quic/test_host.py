import asyncio
import socket

import pytest
import uvloop

from protocol.errors import LocalProtocolError
from protocol.identity import KeyPair
from tests.transport.conftest import ECHO, StartHost, echo
from transport.address import Address
from transport.base import PathKind, Stream
from transport.errors import DialFailed, PeerGone, ProtocolNotSupported
from transport.quic.host import QuicHost
from transport.quic.settings import QuicSettings


async def connect(dialler: QuicHost, target: QuicHost, timeout_s: float = 5):
    return await dialler.connect(target.peer_id, target.addresses, timeout_s=timeout_s)


class TestEcho:
    @pytest.mark.parametrize("size", [0, 16, 16 * 1024, 1024 * 1024, 4 * 1024 * 1024])
    async def test_frame_comes_back_whole(self, start_host: StartHost, size):
        here, there = await start_host(), await start_host()
        stream = await (await connect(here, there)).open_stream(ECHO)
        frame = bytes(range(256)) * (size // 256) + bytes(size % 256)
        async with asyncio.timeout(20):
            await stream.send(frame)
            assert await stream.receive() == frame

    async def test_parts_are_one_frame_and_order_is_kept(self, start_host: StartHost):
        here, there = await start_host(), await start_host()
        stream = await (await connect(here, there)).open_stream(ECHO)
        for index in range(50):
            await stream.send(b"head", bytes([index]), b"x" * (index * 3000))
        stream.finish()
        for index in range(50):
            assert await stream.receive() == b"head" + bytes([index]) + b"x" * (index * 3000)
        assert await stream.receive() is None
        assert await stream.receive() is None

    async def test_the_listener_opens_streams_on_the_same_connection(self, start_host: StartHost):
        here, there = await start_host(), await start_host()
        await connect(here, there)
        async with asyncio.timeout(5):
            while not there.connections():
                await asyncio.sleep(0.001)
        back = await there.connect(here.peer_id, (), timeout_s=1)
        stream = await back.open_stream(ECHO)
        await stream.send(b"from the listener")
        assert await stream.receive() == b"from the listener"
        assert stream.peer_id == here.peer_id
        assert len(here.connections()) == len(there.connections()) == 1

    async def test_fifty_streams_at_once(self, start_host: StartHost):
        here, there = await start_host(), await start_host()
        connection = await connect(here, there)

        async def one(index: int) -> None:
            stream = await connection.open_stream(ECHO)
            for size in (10, 5000, 40_000):
                frame = bytes([index]) * size
                await stream.send(frame)
                assert await stream.receive() == frame
            stream.finish()
            assert await stream.receive() is None

        async with asyncio.timeout(20):
            await asyncio.gather(*(one(index) for index in range(50)))

    async def test_more_streams_than_the_limit_one_after_another(self, start_host: StartHost):
        settings = QuicSettings(streams_max=4)
        here, there = await start_host(settings), await start_host(settings)
        connection = await connect(here, there)
        async with asyncio.timeout(20):
            for _ in range(20):
                stream = await connection.open_stream(ECHO)
                await stream.send(b"x")
                assert await stream.receive() == b"x"
                stream.finish()
                assert await stream.receive() is None

    async def test_statistics_count_frames_and_their_lengths(self, start_host: StartHost):
        here, there = await start_host(), await start_host()
        stream = await (await connect(here, there)).open_stream(ECHO)
        await stream.send(b"x" * 100)
        await stream.receive()
        counts = stream.statistics()
        assert (counts.frames_sent, counts.frames_received) == (1, 1)
        assert (counts.bytes_sent, counts.bytes_received) == (104, 104)

    def test_the_same_under_uvloop(self):
        async def main() -> None:
            here = await QuicHost.start(KeyPair.generate(), listen_host="127.0.0.1")
            there = await QuicHost.start(KeyPair.generate(), listen_host="127.0.0.1")
            there.set_handler(ECHO, echo)
            stream = await (await connect(here, there)).open_stream(ECHO)
            await stream.send(b"x" * 100_000)
            assert await stream.receive() == b"x" * 100_000
            await here.close()
            await there.close()

        uvloop.run(main())

    async def test_ipv6(self, start_host: StartHost):
        try:
            there = await start_host(listen_host="::1")
        except OSError:
            pytest.skip("this machine has no IPv6")
        here = await start_host(listen_host="::")
        stream = await (await connect(here, there)).open_stream(ECHO)
        await stream.send(b"six")
        assert await stream.receive() == b"six"

    async def test_an_ipv6_wildcard_reaches_ipv4(self, start_host: StartHost):
        try:
            here = await start_host(listen_host="::")
        except OSError:
            pytest.skip("this machine has no IPv6")
        connection = await connect(here, await start_host())
        assert connection.path_kind is PathKind.LAN


class TestConnect:
    async def test_reuses_the_living_connection(self, start_host: StartHost):
        here, there = await start_host(), await start_host()
        assert await connect(here, there) is await connect(here, there)
        assert here.connections()[0].peer_id == there.peer_id

    async def test_concurrent_dials_of_one_peer_are_one(self, start_host: StartHost):
        here, there = await start_host(), await start_host()
        connections = await asyncio.gather(*(connect(here, there) for _ in range(10)))
        assert len(set(map(id, connections))) == 1
        assert len(here.connections()) == 1

    async def test_both_dial_each_other_from_their_listening_sockets(self, start_host: StartHost):
        here, there = await start_host(), await start_host()
        forth, back = await asyncio.gather(connect(here, there), connect(there, here))
        for connection in (forth, back):
            stream = await connection.open_stream(ECHO)
            await stream.send(b"x")
            assert await stream.receive() == b"x"
        assert forth.remote == f"127.0.0.1:{there.addresses[0].port}"
        assert back.remote == f"127.0.0.1:{here.addresses[0].port}"

    async def test_another_identity_than_dialled_is_refused(self, start_host: StartHost):
        here, there = await start_host(), await start_host()
        stranger = KeyPair.generate().peer_id
        address = Address("127.0.0.1", there.addresses[0].port, stranger)
        with pytest.raises(DialFailed) as raised:
            await here.connect(stranger, [address], timeout_s=5)
        assert str(there.peer_id) in raised.value.attempts[0].reason
        await asyncio.sleep(0.05)
        assert not here.connections()
        assert not there.connections()

    async def test_silent_address_is_named_with_its_reason(self, start_host: StartHost):
        here = await start_host()
        peer_id = KeyPair.generate().peer_id
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            address = Address("127.0.0.1", silent.getsockname()[1], peer_id)
            with pytest.raises(DialFailed) as raised:
                await here.connect(peer_id, [address], timeout_s=0.2)
        (attempt,) = raised.value.attempts
        assert attempt.address == str(address)
        assert attempt.reason == "no answer"
        assert 0.1 < attempt.elapsed_s < 2

    async def test_good_address_wins_over_bad_ones(self, start_host: StartHost):
        here, there = await start_host(), await start_host()
        good = there.addresses[0]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            bad = Address("127.0.0.1", silent.getsockname()[1], there.peer_id)
            six = Address("2001:db8::1", 4001, there.peer_id)
            connection = await here.connect(there.peer_id, [bad, six, good], timeout_s=5)
        assert connection.remote == f"127.0.0.1:{good.port}"
        assert here.endpoint.connections() == (connection,)

    async def test_two_good_addresses_leave_one_connection(self, start_host: StartHost):
        here = await start_host(QuicSettings(dial_stagger_s=0.0))
        there = await start_host(listen_host="0.0.0.0")
        port = there.endpoint.udp.port
        both = [Address(f"127.0.0.{last}", port, there.peer_id) for last in (1, 2, 3, 4)]
        connection = await here.connect(there.peer_id, both, timeout_s=5)
        assert here.endpoint.connections() == here.connections() == (connection,)
        await asyncio.sleep(0.1)
        assert len(there.connections()) == 1

    async def test_reasons_that_need_no_network(self, start_host: StartHost):
        here = await start_host()
        peer_id = KeyPair.generate().peer_id
        with pytest.raises(DialFailed, match="no address known"):
            await here.connect(peer_id, [], timeout_s=1)
        with pytest.raises(DialFailed, match="no IPv6 socket"):
            await here.connect(peer_id, [Address("::1", 4001, peer_id)], timeout_s=1)
        with pytest.raises(DialFailed, match="another peer's"):
            await here.connect(peer_id, here.addresses, timeout_s=1)
        with pytest.raises(DialFailed, match="this node itself"):
            await here.connect(here.peer_id, here.addresses, timeout_s=1)

    async def test_closing_the_host_ends_its_dials(self, start_host: StartHost):
        here, peer_id = await start_host(), KeyPair.generate().peer_id
        address = Address("127.0.0.1", 9, peer_id)
        dialling = asyncio.create_task(here.connect(peer_id, [address], timeout_s=30))
        await asyncio.sleep(0.02)
        await here.close()
        with pytest.raises(DialFailed, match="closed"):
            await dialling

    async def test_cancelled_caller_does_not_end_the_dial_of_another(self, start_host: StartHost):
        here, there = await start_host(), await start_host()
        first = asyncio.create_task(connect(here, there))
        second = asyncio.create_task(connect(here, there))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).peer_id == there.peer_id
        with pytest.raises(asyncio.CancelledError):
            await first

    async def test_a_closed_host_does_not_dial(self, start_host: StartHost):
        here, there = await start_host(), await start_host()
        await here.close()
        with pytest.raises(LocalProtocolError):
            await connect(here, there)

    async def test_oldest_connection_of_a_peer_gives_way(self, start_host: StartHost):
        key, there = KeyPair.generate(), await start_host(QuicSettings(connections_per_peer_max=2))
        connections = [await connect(await start_host(key=key), there) for _ in range(3)]
        stream = await connections[2].open_stream(ECHO)
        await stream.send(b"x")
        assert await stream.receive() == b"x"
        assert len(there.connections()) == 2
        with pytest.raises(PeerGone, match="too many"):
            await (await connections[0].open_stream(ECHO)).receive()


class TestProtocols:
    async def test_unknown_protocol_is_not_supported(self, start_host: StartHost):
        here, there = await start_host(), await start_host()
        connection = await connect(here, there)
        stream = await connection.open_stream("/test/unknown/1")
        await stream.send(b"\xff" * 5000)  # data of an optimistic initiator
        async with asyncio.timeout(5):
            with pytest.raises(ProtocolNotSupported):
                await stream.receive()
            with pytest.raises(ProtocolNotSupported):
                await stream.send(b"more")
        good = await connection.open_stream(ECHO)
        await good.send(b"x")
        assert await good.receive() == b"x"

    async def test_handler_taken_away_is_not_served(self, start_host: StartHost):
        here, there = await start_host(), await start_host()
        there.set_handler(ECHO, None)
        stream = await (await connect(here, there)).open_stream(ECHO)
        with pytest.raises(ProtocolNotSupported):
            await stream.receive()

    async def test_handlers_are_cancelled_when_the_host_closes(self, start_host: StartHost):
        here, there = await start_host(), await start_host()
        ended = asyncio.Event()

        async def wait_for_ever(stream: Stream) -> None:
            try:
                await stream.send(b"started")
                await asyncio.Event().wait()
            finally:
                ended.set()

        there.set_handler("/test/wait/1", wait_for_ever)
        stream = await (await connect(here, there)).open_stream("/test/wait/1")
        assert await stream.receive() == b"started"
        await there.close()
        assert ended.is_set()


class TestAddresses:
    async def test_wildcard_becomes_the_addresses_of_the_interfaces(self, start_host: StartHost):
        host = await start_host(listen_host="0.0.0.0")
        for address in host.addresses:
            assert address.peer_id == host.peer_id
            assert address.host not in ("0.0.0.0", "127.0.0.1")

    async def test_path_kind_of_loopback_is_lan(self, start_host: StartHost):
        connection = await connect(await start_host(), await start_host())
        assert connection.path_kind is PathKind.LAN
