"""What a stranger, or a peer that misbehaves, can do on the TCP port: nothing that lasts."""

import asyncio
import os
import socket
from contextlib import suppress
from dataclasses import replace

import pytest

from protocol.errors import RemoteProtocolError
from tests.transport.conftest import ECHO, StartHost, echo
from tests.transport.lan.test_streams import eventually
from tests.transport.lan_pair import lan_pair, raw_tls, take_offer
from transport.base import PathKind, Stream
from transport.errors import FrameTooLarge, PeerGone, StreamReset
from transport.lan.fast_lan import FastLan
from transport.lan.link import host_of, hosts_to_try
from transport.lan.settings import LanSettings, StreamLimits
from transport.lan.wire import (
    ACCEPTED_BYTES,
    LAN_PROTOCOL,
    ChunkKind,
    LanHost,
    Offer,
    Want,
    chunk_header,
    opening,
)
from transport.quic.seams import ResetCode

LOOPBACK = "127.0.0.1"
HASH = bytes(32)
TICKET = bytes(32)


async def ended(reader: asyncio.StreamReader) -> bool:
    with suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), 3) == b""
    return True


async def enter(port: int, ticket: bytes, protocol: str = ECHO):
    reader, writer = await raw_tls(port)
    writer.write(opening(ticket, protocol))
    return reader, writer


class TestTickets:
    async def test_ticket_opens_one_stream_and_no_second(self):
        async with lan_pair() as pair:
            _control, offer = await take_offer(pair.connection)
            reader, writer = await enter(offer.port, offer.tickets[0])
            assert len(await reader.readexactly(ACCEPTED_BYTES)) == ACCEPTED_BYTES
            again, second = await enter(offer.port, offer.tickets[0])
            assert await ended(again)
            assert pair.fast_there.counts.served == 1
            assert pair.fast_there.counts.tickets_refused == 1
            writer.close()
            second.close()

    async def test_ticket_nobody_gave_opens_nothing(self):
        async with lan_pair() as pair:
            _control, offer = await take_offer(pair.connection)
            reader, writer = await enter(offer.port, os.urandom(32))
            assert await ended(reader)
            assert pair.fast_there.counts.served == 0
            writer.close()

    async def test_ticket_speaks_for_the_peer_to_whom_it_was_given(self, start_host: StartHost):
        """Who steals one over the air cannot; who is given one speaks for the giver's peer."""
        async with lan_pair() as pair:
            served: asyncio.Queue[Stream] = asyncio.Queue()

            async def serve(stream: Stream) -> None:
                served.put_nowait(stream)
                await echo(stream)

            pair.there.set_handler(ECHO, serve)
            other = await start_host()
            connection = await other.connect(pair.there.peer_id, pair.there.addresses, timeout_s=5)
            _, mine = await take_offer(connection)
            _, theirs = await take_offer(pair.connection)
            for offer, peer in ((mine, other), (theirs, pair.here)):
                _, writer = await enter(offer.port, offer.tickets[0])
                assert (await served.get()).peer_id == peer.peer_id
                writer.close()

    async def test_tickets_die_with_the_connection_they_were_given_over(self):
        async with lan_pair() as pair:
            control, offer = await take_offer(pair.connection, count=3)
            other = await take_offer(pair.connection)  # keeps the door open
            control.reset(0)
            await asyncio.sleep(0.05)
            reader, writer = await enter(offer.port, offer.tickets[0])
            assert await ended(reader)
            writer.close()
            assert other

    async def test_expired_ticket_is_refused(self):
        async with lan_pair(LanSettings(ticket_lifetime_s=0.05)) as pair:
            _control, offer = await take_offer(pair.connection)
            await asyncio.sleep(0.1)
            reader, writer = await enter(offer.port, offer.tickets[0])
            assert await ended(reader)
            assert pair.fast_there.counts.tickets_refused == 1
            writer.close()

    async def test_who_asks_for_many_keeps_the_newest_only(self):
        async with lan_pair(LanSettings(tickets_per_peer_max=4)) as pair:
            control, first = await take_offer(pair.connection, count=255)
            assert len(first.tickets) == 4
            await control.send(Want(4).encode())
            await control.receive()
            assert pair.fast_there._tickets.outstanding_count == 4
            reader, writer = await enter(first.port, first.tickets[0])
            assert await ended(reader)
            writer.close()

    async def test_control_streams_of_one_peer_are_bounded(self):
        async with lan_pair(LanSettings(sessions_per_peer_max=2)) as pair:
            for _ in range(2):
                await take_offer(pair.connection)
            third = await pair.connection.open_stream(LAN_PROTOCOL)
            await third.send(Want(1).encode())
            assert await third.receive() is None

    async def test_nonsense_on_the_control_stream_ends_it(self):
        async with lan_pair() as pair:
            control, _ = await take_offer(pair.connection)
            await control.send(b"nonsense")
            assert await control.receive() is None
            assert pair.fast_there._tickets.outstanding_count == 0


class TestFlood:
    async def test_half_open_connections_are_bounded_and_end(self):
        settings = LanSettings(
            half_open_max=5, handshake_timeout_s=0.3, opening_timeout_s=0.3, connect_timeout_s=0.3
        )
        async with lan_pair(settings) as pair:
            stream = await pair.open()
            port = pair.fast_there.port
            silent = [socket.create_connection((LOOPBACK, port)) for _ in range(20)]
            await eventually(lambda: pair.fast_there.counts.over_limit_closed == 15)
            assert pair.fast_there._listener.half_open_count == 5
            await stream.send(b"meanwhile")
            assert await stream.receive() == b"meanwhile"
            await eventually(lambda: pair.fast_there._listener.half_open_count == 0)
            assert pair.fast_there.counts.handshakes_failed == 5
            for opened in silent:
                opened.close()
            await pair.open()

    async def test_one_address_cannot_take_all_places(self):
        settings = LanSettings(half_open_max=50, half_open_per_host_max=2, handshake_timeout_s=0.3)
        async with lan_pair(settings) as pair:
            await pair.open()
            silent = [socket.create_connection((LOOPBACK, pair.fast_there.port)) for _ in range(6)]
            await eventually(lambda: pair.fast_there.counts.over_limit_closed == 4)
            for opened in silent:
                opened.close()

    async def test_garbage_instead_of_tls_ends_at_once(self):
        async with lan_pair() as pair:
            stream = await pair.open()
            for _ in range(50):
                with (
                    suppress(OSError),
                    socket.create_connection((LOOPBACK, pair.fast_there.port)) as opened,
                ):
                    opened.sendall(os.urandom(2000))
                    await asyncio.sleep(0)
            await eventually(lambda: pair.fast_there._listener.half_open_count == 0)
            await stream.send(b"meanwhile")
            assert await stream.receive() == b"meanwhile"

    async def test_no_ticket_outstanding_means_no_handshake(self):
        async with lan_pair() as pair:
            with socket.create_connection((LOOPBACK, pair.fast_there.port)) as opened:
                await eventually(lambda: pair.fast_there.counts.strangers_closed == 1)
                assert opened.recv(1) == b""

    @pytest.mark.parametrize(
        "data", [b"", b"short", bytes(34), bytes(32) + b"\xff\xff", b"x" * 99_999]
    )
    async def test_silence_and_nonsense_instead_of_an_opening(self, data):
        async with lan_pair(LanSettings(opening_timeout_s=0.2)) as pair:
            _control, offer = await take_offer(pair.connection)
            reader, writer = await raw_tls(offer.port)
            writer.write(data)
            assert await ended(reader)
            await eventually(lambda: pair.fast_there._listener.half_open_count == 0)
            assert pair.fast_there.counts.tickets_refused == 1
            writer.close()

    async def test_streams_of_all_peers_together_are_bounded(self):
        async with lan_pair(LanSettings(incoming_max=2)) as pair:
            for _ in range(2):
                await pair.open()
            assert await pair.fast_here.open(pair.connection, ECHO) is None
            assert pair.fast_there.counts.over_limit_closed >= 1


class TestFrames:
    async def test_frame_above_the_limit_resets_the_stream(self):
        small = replace(LanSettings(), stream=StreamLimits(frame_bytes_max=1000))
        async with lan_pair(small) as pair:
            served: asyncio.Queue[object] = asyncio.Queue()

            async def serve(stream: Stream) -> None:
                try:
                    await stream.receive()
                except FrameTooLarge as error:
                    served.put_nowait(error)

            pair.there.set_handler(ECHO, serve)
            _control, offer = await take_offer(pair.connection)
            reader, writer = await enter(offer.port, offer.tickets[0])
            frame = (1001).to_bytes(4, "big") + bytes(50)
            writer.write(chunk_header(ChunkKind.DATA, len(frame)) + frame)
            assert isinstance(await served.get(), FrameTooLarge)
            await reader.readexactly(ACCEPTED_BYTES)
            chunks = await reader.readexactly(24)
            codes = {int.from_bytes(chunks[4:12], "big"), int.from_bytes(chunks[16:24], "big")}
            assert codes == {ResetCode.FRAME_TOO_LARGE}
            writer.close()

    @pytest.mark.parametrize(
        "chunk",
        [
            bytes((9, 0, 0, 0)),
            bytes((ChunkKind.FIN, 0, 0, 1)),
            bytes((ChunkKind.RESET, 0, 0, 7)),
            bytes((ChunkKind.STOP, 255, 255, 255)),
        ],
    )
    async def test_chunk_that_means_nothing_ends_the_connection(self, chunk):
        async with lan_pair() as pair:
            served: asyncio.Queue[BaseException] = asyncio.Queue()

            async def serve(stream: Stream) -> None:
                try:
                    await stream.receive()
                except PeerGone as error:
                    served.put_nowait(error)

            pair.there.set_handler(ECHO, serve)
            _control, offer = await take_offer(pair.connection)
            reader, writer = await enter(offer.port, offer.tickets[0])
            writer.write(chunk)
            assert "means nothing" in str(await served.get())
            assert len(await reader.read()) == ACCEPTED_BYTES
            writer.close()

    async def test_peer_that_never_lets_go_of_a_reset_stream_is_cut_off(self):
        async with lan_pair(LanSettings(linger_s=0.1)) as pair:

            async def refuse(stream: Stream) -> None:
                stream.reset(9)

            pair.there.set_handler(ECHO, refuse)
            _control, offer = await take_offer(pair.connection)
            reader, writer = await enter(offer.port, offer.tickets[0])
            await ended(reader)
            (session,) = pair.fast_there._sessions
            await eventually(lambda: session.stream_count == 0)
            writer.close()


class TestListenerThatLies:
    """The dialler's side: a peer, or somebody at its address, that is not what it should be."""

    async def offering(self, start_host: StartHost, offer: Offer):
        here, there = await start_host(), await start_host()

        async def serve(control: Stream) -> None:
            while await control.receive() is not None:
                await control.send(offer.encode())

        there.set_handler(LAN_PROTOCOL, serve)
        fast = await FastLan.start(here, LOOPBACK)
        connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
        assert await fast.open(connection, ECHO) is None
        (verdict,) = fast.verdicts()
        await fast.close()
        return verdict.reason

    async def test_another_certificate_is_told_before_anything_is_sent(self, start_host: StartHost):
        async with lan_pair() as pair:
            _control, true = await take_offer(pair.connection)
            lie = replace(true, certificate_hash=HASH)
            assert "certificate is not the one" in await self.offering(start_host, lie)
            counts = pair.fast_there.counts
            await eventually(lambda: counts.tickets_refused + counts.handshakes_failed == 1)
            # The ticket was not sent: it is still good.
            reader, writer = await enter(true.port, true.tickets[0])
            await reader.readexactly(ACCEPTED_BYTES)
            writer.close()

    async def test_port_that_does_not_answer_is_a_reason(self, start_host: StartHost):
        offer = Offer(1, HASH, 60_000, (), (TICKET,))
        assert "TCP to the peer is blocked" in await self.offering(start_host, offer)

    async def test_server_without_tls_is_a_reason(self, start_host: StartHost):
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-Example\r\n")
            await reader.read()
            writer.close()

        server = await asyncio.start_server(answer, LOOPBACK, 0)
        port = server.sockets[0].getsockname()[1]
        offer = Offer(port, HASH, 60_000, (), (TICKET,))
        assert "TCP to the peer is blocked" in await self.offering(start_host, offer)
        server.close()
        await server.wait_closed()

    async def test_offer_without_tickets_is_a_reason(self, start_host: StartHost):
        offer = Offer(4001, HASH, 60_000, (), ())
        assert "no ticket" in await self.offering(start_host, offer)

    @pytest.mark.parametrize(
        "frame",
        [
            b"",
            b"\x02",
            bytes(40),
            Offer(0, HASH, 1, (), ()).encode(),
            Offer(1, HASH, 1, (), (TICKET,)).encode()[:-1],
            Offer(1, HASH, 1, tuple(LanHost("10.0.0.1", 0) for _ in range(17)), ()).encode(),
            Offer(1, HASH, 1, (LanHost("10.0.0.1", 0),), ())
            .encode()
            .replace(b"\x04\x0a", b"\x05\x0a"),
        ],
    )
    def test_offer_that_makes_no_sense_is_refused(self, frame):
        with pytest.raises(RemoteProtocolError):
            Offer.decode(frame, hosts_max=16)

    def test_offer_cannot_send_us_to_other_networks(self):
        evil = tuple(
            LanHost(host, 100_000)
            for host in ("127.0.0.1", "8.8.8.8", "203.0.113.5", "::1", "255.255.255.255")
        )
        offer = Offer(22, HASH, 1, evil, ())
        assert hosts_to_try("10.99.99.99", offer) == ("10.99.99.99",)
        assert hosts_to_try("127.0.0.1", offer) == ("127.0.0.1",)

    def test_host_of_a_connection(self):
        assert host_of("192.168.1.2:4001") == "192.168.1.2"
        assert host_of("[fe80::1%eth0]:4001") == "fe80::1%eth0"


async def test_stream_that_is_reset_is_not_served_further(start_host: StartHost):
    async with lan_pair() as pair:
        stream = await pair.open()
        assert stream.path_kind is PathKind.LAN
        stream.reset(1)
        with pytest.raises(StreamReset):
            await stream.send(b"x")
        with pytest.raises(StreamReset):
            await stream.receive()
