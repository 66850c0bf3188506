"""What `transport_echo` compares: ways to carry frames there and back over loopback, opened once.

Each serves an echo: a frame below ONE_WAY_BYTES comes back, a larger one is only taken.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import aioquic.asyncio
from aioquic.quic.configuration import QuicConfiguration

from protocol.identity import KeyPair
from transport.base import Stream
from transport.control.base import ControlStream
from transport.control.host import LibP2pHost
from transport.framing import LENGTH_BYTES, encode_length
from transport.lan.tls import make_client_context, make_server_context
from transport.quic.certificate import make_certificate
from transport.quic.host import QuicHost
from transport.quic.settings import QuicSettings

__all__ = ["ONE_WAY_BYTES", "PROTOCOL", "Carrier", "control", "data_socket", "stock", "tls"]

PROTOCOL = "/benchmark/echo/1"
LOOPBACK = "127.0.0.1"
ONE_WAY_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Carrier:
    """One way to carry frames."""

    name: str
    bulk_mib: int
    """What one round sends one way: enough to measure, little enough to wait for."""
    send: Callable[[bytes], Awaitable[None]]
    receive: Callable[[], Awaitable[bytes]]

    async def exchange(self, frame: bytes) -> bytes:
        await self.send(frame)
        return await self.receive()

    async def bulk(self) -> None:
        """Send `bulk_mib` and wait until all has arrived."""
        frame = bytes(ONE_WAY_BYTES)
        for _ in range(self.bulk_mib):
            await self.send(frame)
        await self.exchange(b"done")


@asynccontextmanager
async def data_socket(datagram_bytes: int) -> AsyncIterator[Carrier]:
    """Ours, with both ends' datagrams of that size."""

    async def serve(stream: Stream) -> None:
        while (frame := await stream.receive()) is not None:
            if len(frame) < ONE_WAY_BYTES:
                await stream.send(frame)

    settings = replace(QuicSettings(), loopback_datagram_bytes=datagram_bytes)
    here, there = [
        await QuicHost.start(KeyPair.generate(), listen_host=LOOPBACK, settings=settings)
        for _ in range(2)
    ]
    there.set_handler(PROTOCOL, serve)
    connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
    stream = await connection.open_stream(PROTOCOL)

    async def receive() -> bytes:
        answer = await stream.receive()
        assert answer is not None
        return answer

    yield Carrier(f"QuicHost, {datagram_bytes} B datagrams", 4, stream.send, receive)
    await here.close()
    await there.close()


@asynccontextmanager
async def stock(*, datagram_bytes: int = 0, window_bytes: int = 0) -> AsyncIterator[Carrier]:
    """`aioquic.asyncio` as it comes, or with larger datagrams and windows; uvloop either way."""
    identity = make_certificate(KeyPair.generate())
    server = QuicConfiguration(is_client=False, alpn_protocols=["benchmark"])
    server.certificate, server.private_key = identity.certificate, identity.private_key
    client = QuicConfiguration(alpn_protocols=["benchmark"], verify_mode=ssl.CERT_NONE)
    for configuration in (server, client):
        if datagram_bytes:
            configuration.max_datagram_size = datagram_bytes
        if window_bytes:
            configuration.max_data = configuration.max_stream_data = window_bytes
    tasks: set[asyncio.Task[None]] = set()

    def on_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(_echo(reader, writer)))

    quic_server = await aioquic.asyncio.serve(
        LOOPBACK, 0, configuration=server, stream_handler=on_stream
    )
    port = quic_server._transport.get_extra_info("sockname")[1]
    name = f"{datagram_bytes} B, 16 MiB windows" if datagram_bytes else "defaults (1200 B)"
    async with aioquic.asyncio.connect(LOOPBACK, port, configuration=client) as protocol:
        reader, writer = await protocol.create_stream()
        yield _of_streams(f"stock aioquic.asyncio, {name}", 1, reader, writer)
    quic_server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def tls() -> AsyncIterator[Carrier]:
    """asyncio's streams over TCP and TLS 1.3."""
    context, _ = make_server_context()
    server = await asyncio.start_server(_echo, LOOPBACK, 0, ssl=context, limit=ONE_WAY_BYTES)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection(
        LOOPBACK, port, ssl=make_client_context(), limit=ONE_WAY_BYTES
    )
    yield _of_streams("asyncio TCP + TLS 1.3", 32, reader, writer)
    writer.close()
    server.close()
    await server.wait_closed()


@asynccontextmanager
async def control() -> AsyncIterator[Carrier]:
    """Our control plane: py-libp2p's TCP + Noise + yamux, each host in a trio thread."""

    async def serve(stream: ControlStream) -> None:
        frames = _ControlFrames(stream)
        while True:
            frame = await frames.receive()
            if len(frame) < ONE_WAY_BYTES:
                await frames.send(frame)

    there = await LibP2pHost.start(KeyPair.generate(), listen=[(LOOPBACK, 0)])
    here = await LibP2pHost.start(KeyPair.generate())
    there.set_handler(PROTOCOL, serve)
    connection = await here.connect(there.addresses[0], timeout_s=10)
    frames = _ControlFrames(await connection.open_stream(PROTOCOL, timeout_s=10))
    yield Carrier("control host (TCP + Noise + yamux)", 8, frames.send, frames.receive)
    await here.close()
    await there.close()


class _ControlFrames:
    def __init__(self, stream: ControlStream) -> None:
        self._stream = stream
        self._unread = bytearray()

    async def send(self, frame: bytes) -> None:
        await self._stream.write(encode_length(len(frame)) + frame)

    async def receive(self) -> bytes:
        size = int.from_bytes(await self._exactly(LENGTH_BYTES), "big")
        return await self._exactly(size)

    async def _exactly(self, size: int) -> bytes:
        while len(self._unread) < size:
            data = await self._stream.read(256 * 1024)
            if not data:
                raise EOFError
            self._unread += data
        taken = bytes(self._unread[:size])
        del self._unread[:size]
        return taken


def _of_streams(
    name: str, bulk_mib: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Carrier:
    async def send(frame: bytes) -> None:
        writer.write(encode_length(len(frame)) + frame)
        await writer.drain()

    return Carrier(name, bulk_mib, send, lambda: _read_frame(reader))


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            frame = await _read_frame(reader)
            if len(frame) < ONE_WAY_BYTES:
                writer.write(encode_length(len(frame)) + frame)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
    return await reader.readexactly(size)
