"""Floods of handshakes and of data: what they cost is bounded by name, and others get in."""

import asyncio
import socket

import pytest
from aioquic.buffer import Buffer, encode_uint_var
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicPacketType, QuicProtocolVersion, pull_quic_header
from aioquic.tls import Epoch

from protocol.identity import KeyPair
from tests.hostile import MIB, nothing_unhandled, resident_bytes
from tests.transport.conftest import StartHost
from tests.transport.hostile_pair import Session
from tests.transport.raw_peer import RawPeer
from transport.base import Stream
from transport.errors import DialFailed
from transport.framing import encode_length
from transport.multistream import Initiator
from transport.quic.certificate import make_certificate
from transport.quic.private_arrived import CRYPTO_BYTES_MAX, STREAM_GAPS_MAX, Arrived
from transport.quic.settings import QuicSettings

IDENTITY = make_certificate(KeyPair.generate())


async def until(condition, timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


def initials(port: int, count: int) -> list[bytes]:
    """First packets of as many connections."""
    found = []
    for _ in range(count):
        with RawPeer(port, None) as peer:
            found.append(peer.quic.datagrams_to_send(0.0)[0][0])
    return found


class TestHandshakes:
    async def test_many_half_open_ones_must_prove_their_address_and_an_honest_one_does(
        self, start_host: StartHost
    ):
        settings = QuicSettings(handshake_timeout_s=1.0)
        host, honest = await start_host(settings), await start_host()
        flood = initials(host.port, 400)
        with nothing_unhandled(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
            attacker.setblocking(False)
            attacker.bind(("127.0.0.1", 0))
            sent_bytes = 0
            for index, datagram in enumerate(flood):
                sent_bytes += attacker.sendto(datagram, ("127.0.0.1", host.port))
                if index % 50 == 49:
                    await asyncio.sleep(0)
            await until(lambda: host.endpoint.counts.retries_sent > 0)
            connection = await honest.connect(host.peer_id, host.addresses, timeout_s=5)
            session = Session(connection, seed=1)
            await session.reach(10)
            await session.stop()
            counts = host.endpoint.counts
            free = settings.half_open_free_max
            assert counts.retries_sent >= len(flood) - free
            assert host.statistics().half_open_count <= free
            # What the attacker never proved is answered with less than it sent.
            await until(lambda: host.statistics().half_open_count == 0)
            assert host.statistics().udp.bytes_sent - connection_bytes(session) < 3 * sent_bytes

    async def test_those_who_prove_theirs_are_bounded_and_end(self, start_host: StartHost):
        settings = QuicSettings(half_open_max=20, half_open_free_max=5, handshake_timeout_s=0.8)
        host, honest = await start_host(settings), await start_host()
        peers = [RawPeer(host.port, None) for _ in range(40)]
        with nothing_unhandled():
            for peer in peers:
                peer.__enter__().send()
            await asyncio.sleep(0.05)
            for peer in peers:
                answer_retry(peer)
            await until(lambda: host.endpoint.counts.over_limit_dropped >= 15)
            assert host.statistics().half_open_count == settings.half_open_max
            with pytest.raises(DialFailed, match="no answer"):
                await honest.connect(host.peer_id, host.addresses, timeout_s=0.2)
            await until(lambda: host.statistics().half_open_count == 0)
            await honest.connect(host.peer_id, host.addresses, timeout_s=5)
        for peer in peers:
            peer.socket.close()


def answer_retry(peer: RawPeer) -> None:
    """Take a Retry, if one came, and prove the address; nothing more."""
    try:
        data = peer.socket.recv(65536)
    except BlockingIOError:
        return
    header = pull_quic_header(Buffer(data=data), host_cid_length=8)
    if header.packet_type == QuicPacketType.RETRY:
        peer.quic.receive_datagram(data, peer.address, 0.0)
        peer.send()


def connection_bytes(session: Session) -> int:
    """An upper bound of what the honest session received."""
    return 2 * session.byte_count + 100_000


class TestData:
    async def test_what_nobody_reads_is_bounded_by_the_connections_window(
        self, start_host: StartHost
    ):
        """Streams that are stuffed while their handlers sleep; another peer's goes on."""
        settings = QuicSettings(
            frame_bytes_max=256 * 1024,
            stream_window_bytes=512 * 1024,
            connection_window_bytes=2 * MIB,
        )
        host, honest = await start_host(settings), await start_host(settings)
        asleep: list[Stream] = []

        async def sleep(stream: Stream) -> None:
            asleep.append(stream)
            await asyncio.Event().wait()

        host.set_handler("/sleep/1", sleep)
        session = Session(await honest.connect(host.peer_id, host.addresses, timeout_s=5), seed=1)
        with nothing_unhandled(), RawPeer(host.port, IDENTITY) as peer:
            await peer.shake_hands()
            before = host.statistics().udp.bytes_received - session.byte_count
            resident = resident_bytes()
            for _ in range(16):
                stream = peer.quic.get_next_available_stream_id()
                frames = (encode_length(60_000) + bytes(60_000)) * 17
                peer.quic.send_stream_data(stream, Initiator("/sleep/1").opening + frames)
            await peer.pump(1.5)
            arrived = host.statistics().udp.bytes_received - session.byte_count - before
            assert len(asleep) == 16
            assert arrived < 1.5 * settings.connection_window_bytes
            # 16 MiB lie with the attacker, in this process too.
            assert resident_bytes() - resident < 16 * MIB + 4 * settings.connection_window_bytes
            await session.stop()

    async def test_peers_that_fall_silent_amid_an_answer_stop_their_writers(
        self, start_host: StartHost
    ):
        settings = QuicSettings(unacknowledged_bytes_max=256 * 1024)
        host, honest = await start_host(settings), await start_host()
        written: list[int] = []

        async def pour(stream: Stream) -> None:
            index = len(written)
            written.append(0)
            while True:
                await stream.send(bytes(50_000))
                written[index] += 50_000

        host.set_handler("/pour/1", pour)
        session = Session(await honest.connect(host.peer_id, host.addresses, timeout_s=5), seed=1)
        peers = [RawPeer(host.port, IDENTITY) for _ in range(3)]
        with nothing_unhandled():
            for peer in peers:
                with peer:
                    await peer.shake_hands()
                    stream = peer.quic.get_next_available_stream_id()
                    peer.quic.send_stream_data(stream, Initiator("/pour/1").opening)
                    await peer.pump(0.05)
            before = list(written)
            assert len(before) == len(peers)
            await session.reach(session.count + 50)
            for early, late in zip(before, written, strict=True):
                assert late - early <= settings.unacknowledged_bytes_max + 50_000
            await session.stop()


class Gaps:
    """Makes a bare client's packets say that one byte in two has arrived, in CRYPTO or a stream."""

    def __init__(self, crypto: object, frame: bytes, first: int) -> None:
        self._seal = crypto.encrypt_packet
        self._frame, self._offset = frame, first
        crypto.encrypt_packet = self._damaged

    def _damaged(self, header: bytes, payload: bytes, number: int) -> bytes:
        made = b""
        while len(made) + len(self._frame) + 6 < len(payload):
            made += self._frame + encode_uint_var(self._offset) + b"\x01x"
            self._offset += 2
        return self._seal(header, made.ljust(len(payload), b"\0"), number)


class TestGaps:
    """aioquic walks through every gap for every frame: thousands stop the event loop."""

    async def test_first_packets_full_of_gaps_end_their_connection(
        self, start_host: StartHost, caplog
    ):
        host, other = await start_host(), await start_host()
        session = Session(await other.connect(host.peer_id, host.addresses, timeout_s=5), seed=1)
        with nothing_unhandled(), RawPeer(host.port, None) as peer:
            crypto = peer.quic._cryptos_initial[QuicProtocolVersion.VERSION_1]
            Gaps(crypto, b"\x06", first=3)
            for _ in range(100):
                peer.send()
                peer.quic._loss.reschedule_data(now=0.0)
                await asyncio.sleep(0)
            await until(lambda: len(host.endpoint.connections()) == 1)
            await session.reach(session.count + 5)
            await session.stop()
        assert not caplog.records, "a stranger fills no log"

    async def test_a_first_packet_far_ahead_pins_no_memory(self, start_host: StartHost):
        host = await start_host()
        with nothing_unhandled(), RawPeer(host.port, None) as peer:
            crypto = peer.quic._cryptos_initial[QuicProtocolVersion.VERSION_1]
            Gaps(crypto, b"\x06", first=CRYPTO_BYTES_MAX)
            peer.send()
            await until(lambda: host.statistics().udp.datagrams_received > 0)
            await asyncio.sleep(0.02)
            assert not host.endpoint.connections()

    async def test_a_stream_full_of_gaps_ends_its_connection(self, start_host: StartHost):
        host = await start_host()
        with nothing_unhandled(), RawPeer(host.port, IDENTITY) as peer:
            await peer.shake_hands()
            await until(lambda: len(host.connections()) == 1)
            Gaps(peer.quic._cryptos[Epoch.ONE_RTT], b"\x0e\x00", first=3)
            peer.quic.send_stream_data(0, bytes(400_000))
            await peer.pump(3, until=ConnectionTerminated)
            assert peer.close_reason == "too many gaps in what arrived"
            assert not host.connections()

    async def test_a_lossy_line_leaves_far_fewer(self):
        """Every fifth packet of 10 MB under way lost: aioquic's own ranges count them."""
        arrived = Arrived(STREAM_GAPS_MAX)
        for index in range(10_000_000 // 1200):
            if index % 5:
                arrived.add(1200 * index, 1200 * (index + 1))
        assert len(arrived) < STREAM_GAPS_MAX
