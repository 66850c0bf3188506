"""Strangers' bytes: what reaches nobody, what is answered, and what goes on meanwhile."""

import asyncio
import os
import random
import socket
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.events import ConnectionTerminated, StreamReset
from aioquic.quic.packet import QuicPacketType, pull_quic_header
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from protocol.identity import KeyPair
from tests.transport.conftest import ECHO, StartHost
from tests.transport.raw_peer import RawPeer
from transport.base import Stream
from transport.multistream import Initiator
from transport.quic.certificate import TlsIdentity, make_certificate
from transport.quic.host import QuicHost
from transport.quic.seams import ResetCode
from transport.quic.settings import QuicSettings

SHORT = QuicSettings(keepalive_s=0.05, negotiation_timeout_s=0.1)


def port_of(host: QuicHost) -> int:
    return host.addresses[0].port


def sender() -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setblocking(False)
    opened.bind(("127.0.0.1", 0))
    return opened


def certificate_without_identity() -> TlsIdentity:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2090, 1, 1, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    return TlsIdentity(certificate, key)


def initial_with_version(version: bytes, size: int = 1200) -> bytes:
    head = b"\xc0" + version + b"\x08" + os.urandom(8) + b"\x08" + os.urandom(8)
    return head + bytes(size - len(head))


class TestNoise:
    async def test_thousands_of_random_datagrams_disturb_nobody(self, start_host: StartHost):
        here, there = await start_host(), await start_host()
        connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
        stream = await connection.open_stream(ECHO)
        dice = random.Random(2026)
        routes = list(there.endpoint._routes)
        with sender() as stranger:
            for round_index in range(60):
                for _ in range(50):
                    noise = bytearray(dice.randbytes(dice.choice((0, 1, 20, 100, 1200, 1400))))
                    if len(noise) > 9 and dice.random() < 0.3:
                        # Addressed to a living connection, but not by its peer.
                        noise[0] = 0x40 | noise[0] & 0x3F
                        noise[1:9] = dice.choice(routes)
                    stranger.sendto(noise, ("127.0.0.1", port_of(there)))
                frame = bytes([round_index]) * 5000
                await stream.send(frame)
                assert await stream.receive() == frame
        counts = there.endpoint.counts
        assert counts.noise_dropped > 100
        assert counts.own_packets_dropped > 100
        assert counts.unroutable_dropped > 100
        assert there.endpoint.connections() == there.connections()
        assert there.connections()[0].remote == f"127.0.0.1:{port_of(here)}"

    async def test_packets_of_ours_reach_their_handler(self, start_host: StartHost):
        host = await start_host()
        taken: list[bytes] = []
        host.endpoint.own_packet_handler = lambda data, source: taken.append(data)
        with sender() as stranger:
            for data in (b"\x00a", b"\x3fb", b"\x40c", b"\x80d"):
                stranger.sendto(data, ("127.0.0.1", port_of(host)))
            await asyncio.sleep(0.05)
        assert taken == [b"\x00a", b"\x3fb"]


class TestIdentity:
    @pytest.mark.parametrize("identity", [None, certificate_without_identity()])
    async def test_client_without_identity_is_refused_before_it_is_served(
        self, start_host: StartHost, identity
    ):
        host = await start_host()
        served: list[Stream] = []

        async def serve(stream: Stream) -> None:
            served.append(stream)

        host.set_handler(ECHO, serve)
        with RawPeer(port_of(host), identity) as peer:
            await peer.shake_hands()
            peer.quic.send_stream_data(0, Initiator(ECHO).opening + b"\0\0\0\1x")
            await peer.pump(2, until=ConnectionTerminated)
            assert peer.close_reason == "identity not proved"
        assert not served
        assert not host.connections()
        assert not host.endpoint.connections()

    async def test_certificate_that_breaks_the_parser_harms_only_its_sender(
        self, start_host: StartHost, caplog
    ):
        """aioquic 1.7.2 expects ValueError only; cryptography raises InvalidVersion too."""
        here, there = await start_host(), await start_host()
        honest = await here.connect(there.peer_id, there.addresses, timeout_s=5)
        identity = make_certificate(KeyPair.generate())
        der = identity.certificate.public_bytes(Encoding.DER)
        version_2 = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x03", 1)
        broken = SimpleNamespace(public_bytes=lambda encoding: version_2)
        with RawPeer(port_of(there), TlsIdentity(broken, identity.private_key)) as peer:
            await peer.pump(0.2)
        assert "a connection broke" in caplog.text
        assert len(there.endpoint.connections()) == 1
        stream = await honest.open_stream(ECHO)
        await stream.send(b"x")
        assert await stream.receive() == b"x"

    async def test_another_alpn_is_refused(self, start_host: StartHost):
        host = await start_host()
        with RawPeer(port_of(host), make_certificate(KeyPair.generate()), ["h3"]) as peer:
            await peer.pump(2, until=ConnectionTerminated)
            assert peer.has(ConnectionTerminated)
        assert not host.connections()


class TestAdmission:
    async def test_unknown_version_is_told_ours(self, start_host: StartHost):
        host = await start_host()
        with sender() as stranger:
            stranger.sendto(initial_with_version(b"\x1a\x2a\x3a\x4a"), ("127.0.0.1", port_of(host)))
            await asyncio.sleep(0.05)
            header = pull_quic_header(Buffer(data=stranger.recv(2000)), host_cid_length=8)
            assert header.packet_type == QuicPacketType.VERSION_NEGOTIATION
            assert header.supported_versions[0] == 1

    @pytest.mark.parametrize(
        "datagram",
        [
            initial_with_version(bytes(4), size=1203),  # itself a negotiation: would be a loop
            initial_with_version(b"\x1a\x2a\x3a\x4a", size=1199),  # would amplify
        ],
    )
    async def test_what_must_not_be_answered_is_not(self, start_host: StartHost, datagram):
        host = await start_host()
        with sender() as stranger:
            stranger.sendto(datagram, ("127.0.0.1", port_of(host)))
            await asyncio.sleep(0.05)
            with pytest.raises(BlockingIOError):
                stranger.recv(2000)

    async def test_forged_first_packet_leaves_nothing_behind(self, start_host: StartHost):
        host = await start_host()
        head = b"\xc0\x00\x00\x00\x01\x08" + bytes(8) + b"\x00\x00\x44\x80"
        with sender() as stranger:
            stranger.sendto(head + os.urandom(1200), ("127.0.0.1", port_of(host)))
            await asyncio.sleep(0.05)
        assert not host.endpoint.connections()
        assert not host.endpoint._routes

    async def test_dialler_proves_its_address_when_many_are_half_open(self, start_host: StartHost):
        here, there = await start_host(), await start_host(QuicSettings(half_open_free_max=0))
        connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
        stream = await connection.open_stream(ECHO)
        await stream.send(b"x")
        assert await stream.receive() == b"x"
        assert there.endpoint.counts.retries_sent == 1

    async def test_forged_token_is_refused(self, start_host: StartHost):
        host = await start_host(QuicSettings(half_open_free_max=0))
        head = b"\xc0\x00\x00\x00\x01\x08" + bytes(8) + b"\x00\x20" + bytes(32) + b"\x44\x80"
        with sender() as stranger:
            stranger.sendto(head + os.urandom(1200), ("127.0.0.1", port_of(host)))
            await asyncio.sleep(0.05)
        assert host.endpoint.counts.tokens_refused == 1
        assert not host.endpoint.connections()

    async def test_half_open_connections_are_bounded_and_end(self, start_host: StartHost):
        host = await start_host(QuicSettings(half_open_max=3, handshake_timeout_s=0.3))
        peers = [RawPeer(port_of(host), None) for _ in range(6)]
        for peer in peers:
            with peer:
                peer.send()
        await asyncio.sleep(0.1)
        assert len(host.endpoint.connections()) == 3
        assert host.endpoint.counts.over_limit_dropped == 3
        await asyncio.sleep(0.5)
        assert not host.endpoint.connections()
        assert not host.endpoint._routes

    async def test_connections_are_bounded(self, start_host: StartHost):
        there = await start_host(QuicSettings(connections_max=1))
        first, second = await start_host(), await start_host()
        await first.connect(there.peer_id, there.addresses, timeout_s=5)
        with pytest.raises(Exception, match="no answer"):
            await second.connect(there.peer_id, there.addresses, timeout_s=0.3)


class TestStreams:
    async def serve_raw(self, start_host: StartHost, data: bytes, settings=None) -> RawPeer:
        """A peer with a good identity that sends `data` as its first stream."""
        host = await start_host(settings)
        with RawPeer(port_of(host), make_certificate(KeyPair.generate())) as peer:
            await peer.shake_hands()
            peer.quic.send_stream_data(0, data)
            await peer.pump(0.4, until=StreamReset)
            # The connection goes on.
            peer.quic.send_stream_data(4, Initiator(ECHO).opening + b"\0\0\0\1x")
            await peer.pump(0.1)
            assert not peer.has(ConnectionTerminated)
            echoed = b"".join(e.data for e in peer.events if getattr(e, "stream_id", 0) == 4)
            assert echoed.endswith(b"\0\0\0\1x")
        return peer

    async def test_stream_without_multistream_is_reset(self, start_host: StartHost):
        peer = await self.serve_raw(start_host, b"\x05hello")
        (reset,) = [event for event in peer.events if isinstance(event, StreamReset)]
        assert reset.error_code == ResetCode.MALFORMED

    async def test_huge_length_is_reset_at_once(self, start_host: StartHost):
        peer = await self.serve_raw(start_host, Initiator(ECHO).opening + b"\xff\xff\xff\xff")
        (reset,) = [event for event in peer.events if isinstance(event, StreamReset)]
        assert reset.error_code == ResetCode.FRAME_TOO_LARGE

    async def test_stream_that_names_no_protocol_is_reset(self, start_host: StartHost):
        peer = await self.serve_raw(start_host, b"\x13/multi", SHORT)
        (reset,) = [event for event in peer.events if isinstance(event, StreamReset)]
        assert reset.error_code == ResetCode.TIMED_OUT

    async def test_one_way_stream_is_against_the_limits(self, start_host: StartHost):
        host = await start_host()
        with RawPeer(port_of(host), make_certificate(KeyPair.generate())) as peer:
            await peer.shake_hands()
            await peer.pump(0.05)
            assert peer.quic._remote_max_streams_uni == 0
            assert peer.quic._remote_max_streams_bidi == QuicSettings().streams_max
