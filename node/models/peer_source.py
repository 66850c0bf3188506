"""Another node as a source: `/piecework/weights/1` over the transport.

docs/protocol/weights.md is the page of the wire.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Final

from node.models.errors import NotHeld, SourceFailed, SourceLied
from node.models.http_source import decode_manifest
from node.models.plan import Piece
from node.models.sources import FileDigest
from protocol.errors import RemoteProtocolError
from protocol.model import ModelManifest
from protocol.weights import (
    CHUNK_BYTES_MAX,
    ITEM_BYTES_MAX,
    PROTOCOL,
    ItemKind,
    ReplyStatus,
    WeightReply,
    WeightRequest,
    manifest_request,
)
from transport.address import Address
from transport.base import Host, Stream
from transport.errors import ProtocolNotSupported, TransportError

__all__ = ["PeerSource"]

CONNECT_TIMEOUT_S: Final = 10.0
REPLY_TIMEOUT_S: Final = 30.0
"""From a request to its reply, and between two chunks."""
CANCELLED: Final = 1
"""The reset code when what is still under way is not wanted any more."""


class PeerSource:
    """A peer at one or more addresses; dialled when first asked. The host stays the caller's."""

    file_digests: Mapping[str, FileDigest] = {}
    origin = ""

    def __init__(self, host: Host, addresses: Sequence[Address]) -> None:
        """`addresses`: of one peer, at least one."""
        self._host = host
        self._addresses = tuple(addresses)
        self._peer_id = addresses[0].peer_id

    @property
    def name(self) -> str:
        return f"peer {self._peer_id.short}"

    async def manifest(self, manifest_hash: bytes | None, name: str) -> ModelManifest:
        return decode_manifest(await self._read_item(manifest_request(manifest_hash, name)))

    async def read_file(self, manifest_hash: bytes | None, file: str, bytes_max: int) -> bytes:
        return await self._read_item(_request(manifest_hash, ItemKind.FILE, file, 0, bytes_max))

    async def read_header(self, manifest_hash: bytes | None, file: str) -> bytes:
        request = _request(manifest_hash, ItemKind.HEADER, file, 0, ITEM_BYTES_MAX)
        return await self._read_item(request)

    async def read(
        self, manifest_hash: bytes | None, pieces: Sequence[Piece], offset: int
    ) -> AsyncGenerator[bytes, None]:
        async with self._stream() as stream:
            for index, piece in enumerate(pieces):
                start = offset if index == 0 else 0
                kind = ItemKind.TENSOR
                request = _request(manifest_hash, kind, piece.name, start, piece.size_bytes)
                reply = await _ask(stream, request)
                if reply.item_bytes != piece.size_bytes:
                    raise SourceLied(f"It says '{piece.name}' has {reply.item_bytes} bytes.")
                async for chunk in _chunks(stream, request, reply):
                    yield chunk

    async def close(self) -> None:
        """Streams end with what they were opened for; the connection is the host's."""

    async def _read_item(self, request: WeightRequest) -> bytes:
        async with self._stream() as stream:
            reply = await _ask(stream, request)
            if reply.item_bytes > request.end:
                raise SourceFailed(f"Its '{request.name}' has {reply.item_bytes} bytes.")
            data = bytearray()
            async for chunk in _chunks(stream, request, reply):
                data += chunk
            return bytes(data)

    @contextlib.asynccontextmanager
    async def _stream(self) -> AsyncIterator[Stream]:
        """A stream of its own; what is left on it when it ends early is not waited for."""
        try:
            connection = await self._host.connect(
                self._peer_id, self._addresses, timeout_s=CONNECT_TIMEOUT_S
            )
            stream = await connection.open_stream(PROTOCOL)
            try:
                yield stream
                stream.finish()
            except BaseException:
                stream.reset(CANCELLED)
                raise
        except ProtocolNotSupported as error:
            raise NotHeld("It does not share weights.") from error
        except TransportError as error:
            raise SourceFailed(error.message) from error
        except RemoteProtocolError as error:
            raise SourceFailed(f"It broke the protocol: {error.message}") from error


def _request(
    manifest_hash: bytes | None, kind: ItemKind, name: str, start: int, end: int
) -> WeightRequest:
    if manifest_hash is None:
        raise NotHeld("Peers are asked by manifest, and none is known.")
    return WeightRequest(kind, name, start, end, manifest_hash)


async def _ask(stream: Stream, request: WeightRequest) -> WeightReply:
    await stream.send(request.encode())
    reply = WeightReply.decode(await _receive(stream))
    match reply.status:
        case ReplyStatus.NOT_HERE:
            raise NotHeld(f"It does not have '{request.name}'.")
        case ReplyStatus.BUSY:
            raise SourceFailed("It is busy.")
    if reply.start != request.start or reply.end != min(request.end, reply.item_bytes):
        raise SourceFailed("It answered with another range than was asked for.")
    return reply


async def _chunks(
    stream: Stream, request: WeightRequest, reply: WeightReply
) -> AsyncGenerator[bytes, None]:
    left = reply.end - reply.start
    while left:
        chunk = await _receive(stream)
        if not 0 < len(chunk) <= min(left, CHUNK_BYTES_MAX):
            raise SourceFailed(f"It sent a chunk of {len(chunk)} bytes for '{request.name}'.")
        left -= len(chunk)
        yield chunk


async def _receive(stream: Stream) -> bytes:
    try:
        async with asyncio.timeout(REPLY_TIMEOUT_S):
            frame = await stream.receive()
    except TimeoutError:
        raise SourceFailed(f"Nothing came for {REPLY_TIMEOUT_S:g} s.") from None
    if frame is None:
        raise SourceFailed("It ended the stream early.")
    return frame
