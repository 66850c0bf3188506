"""libp2p's identify and ping on the control plane, so that go, rust and js peers know us.

Sources: libp2p specs, identify/README.md and ping/ping.md. Nothing of ours depends on what a peer
says here: identity comes from Noise, addresses from records.
"""

import asyncio
import os
from collections.abc import Callable
from time import monotonic
from typing import Final

from protocol.errors import RemoteProtocolError
from transport.address import TcpAddress
from transport.control.base import ControlConnection, ControlHost, ControlStream
from transport.control.multiaddr_bytes import encode_listen
from transport.errors import TimedOut
from transport.libp2p_identify import IDENTIFY_PROTOCOL, PING_PROTOCOL, Identity

__all__ = ["identify", "ping", "serve_basics"]

PING_BYTES: Final = 32
IDENTITY_BYTES_MAX: Final = 8 * 1024
"""go-libp2p's own bound for one message; a full one has about 2 KiB."""

PINGS_MAX: Final = 10_000
"""Of one stream; a peer that measures for hours opens another."""

_KEY_PREFIX: Final = bytes((0x08, 0x01, 0x12, 0x20))
"""protobuf PublicKey{Type = Ed25519, Data = 32 bytes}."""


def serve_basics(host: ControlHost, protocols: Callable[[], tuple[str, ...]]) -> None:
    """Answer ping and identify on `host`; `protocols()` are those it serves now."""

    async def answer_identify(stream: ControlStream) -> None:
        identity = Identity(
            _KEY_PREFIX + host.peer_id.public_key,
            [encode_listen(address) for address in host.addresses],
            sorted(protocols()),
            _observed(stream),
        )
        body = identity.encode()
        await stream.write(_varint(len(body)) + body)

    host.set_handler(PING_PROTOCOL, _answer_ping)
    host.set_handler(IDENTIFY_PROTOCOL, answer_identify)


async def identify(connection: ControlConnection, *, timeout_s: float) -> Identity:
    """Ask a peer what it serves. Raises TransportError or RemoteProtocolError."""
    try:
        async with asyncio.timeout(timeout_s):
            stream = await connection.open_stream(IDENTIFY_PROTOCOL, timeout_s=timeout_s)
            try:
                return Identity.decode(await _read_prefixed(stream))
            finally:
                await stream.close()
    except TimeoutError:
        raise TimedOut(f"The peer did not identify itself within {timeout_s:g} s.") from None


async def ping(connection: ControlConnection, *, timeout_s: float) -> float:
    """Seconds of one round trip on a new stream. Raises TransportError or RemoteProtocolError."""
    payload = os.urandom(PING_BYTES)
    try:
        async with asyncio.timeout(timeout_s):
            stream = await connection.open_stream(PING_PROTOCOL, timeout_s=timeout_s)
            try:
                began = monotonic()
                await stream.write(payload)
                answer = await _read_exactly(stream, PING_BYTES)
                elapsed_s = monotonic() - began
            finally:
                await stream.close()
    except TimeoutError:
        raise TimedOut(f"The peer did not answer a ping within {timeout_s:g} s.") from None
    if answer != payload:
        raise RemoteProtocolError("The peer answered a ping with other bytes.")
    return elapsed_s


async def _answer_ping(stream: ControlStream) -> None:
    for _ in range(PINGS_MAX):
        first = await stream.read(PING_BYTES)
        if not first:
            return
        await stream.write(first + await _read_exactly(stream, PING_BYTES - len(first)))


async def _read_prefixed(stream: ControlStream) -> bytes:
    size = 0
    for index in range(2):
        (byte,) = await _read_exactly(stream, 1)
        size |= (byte & 0x7F) << 7 * index
        if byte < 0x80 and size <= IDENTITY_BYTES_MAX:
            return await _read_exactly(stream, size)
    raise RemoteProtocolError("An Identify message is too long.")


async def _read_exactly(stream: ControlStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.read(size - len(data))
        if not more:
            raise RemoteProtocolError("The stream ended within a message.")
        data += more
    return data


def _observed(stream: ControlStream) -> bytes:
    """Where the peer comes from, as a multiaddr; empty over a relay, which hides it."""
    if stream.is_relayed:
        return b""
    host, _, port = stream.remote.rpartition(":")
    return encode_listen(TcpAddress(host.strip("[]"), int(port), stream.peer_id))


def _varint(size: int) -> bytes:
    return bytes((size,)) if size < 0x80 else bytes((size & 0x7F | 0x80, size >> 7))
