"""libp2p's identify and ping on the data socket, so that go, rust and js peers know us.

Sources: libp2p specs, identify/README.md and ping/ping.md. An Identify message is a varint length
and a protobuf of six fields; addresses are binary multiaddrs. Nothing of ours depends on what a
peer says here: identity comes from TLS, addresses from records.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from transport.address import Address
from transport.base import Connection, Host, Stream
from transport.control.multiaddr_bytes import encode_listen
from transport.errors import TimedOut, TransportError

__all__ = ["IDENTIFY_PROTOCOL", "PING_PROTOCOL", "Identity", "identify", "ping", "serve_basics"]

PING_PROTOCOL: Final = "/ipfs/ping/1.0.0"
IDENTIFY_PROTOCOL: Final = "/ipfs/id/1.0.0"
AGENT: Final = "piecework"
PROTOCOL_VERSION: Final = "ipfs/0.1.0"
"""What every libp2p implementation says here."""

PING_BYTES: Final = 32
IDENTIFY_BYTES_MAX: Final = 8 * 1024
"""go-libp2p's own bound for one message; a full one has about 2 KiB."""

ANSWER_TIMEOUT_S: Final = 10.0
_FIELD_COUNT_MAX: Final = 256
_KEY_PREFIX: Final = bytes((0x08, 0x01, 0x12, 0x20))
"""protobuf PublicKey{Type = Ed25519, Data = 32 bytes}."""


@dataclass(slots=True)
class Identity:
    """What a peer says of itself; addresses are binary multiaddrs."""

    public_key: bytes = b""
    listen_addresses: list[bytes] = field(default_factory=list)
    protocols: list[str] = field(default_factory=list)
    observed_address: bytes = b""
    protocol_version: str = PROTOCOL_VERSION
    agent: str = AGENT

    def encode(self) -> bytes:
        fields = [
            (1, self.public_key),
            *((2, address) for address in self.listen_addresses),
            *((3, protocol.encode()) for protocol in self.protocols),
            (4, self.observed_address),
            (5, self.protocol_version.encode()),
            (6, self.agent.encode()),
        ]
        return b"".join(
            bytes((number << 3 | 2,)) + _varint(len(value)) + value for number, value in fields
        )

    @classmethod
    def decode(cls, data: bytes) -> "Identity":
        """Unknown fields are skipped. Raises RemoteProtocolError."""
        found, at = cls(protocol_version="", agent=""), 0
        for _ in range(_FIELD_COUNT_MAX):
            if at == len(data):
                return found
            tag, at = _read_varint(data, at)
            if tag & 7 != 2:
                raise RemoteProtocolError("An Identify message has a field of a strange kind.")
            size, at = _read_varint(data, at)
            if at + size > len(data):
                raise RemoteProtocolError("An Identify message is cut short.")
            found._take(tag >> 3, data[at : at + size])
            at += size
        raise RemoteProtocolError("An Identify message has too many fields.")

    def _take(self, number: int, value: bytes) -> None:
        match number:
            case 1:
                self.public_key = value
            case 2:
                self.listen_addresses.append(value)
            case 3:
                self.protocols.append(value.decode(errors="replace"))
            case 4:
                self.observed_address = value
            case 5:
                self.protocol_version = value.decode(errors="replace")
            case 6:
                self.agent = value.decode(errors="replace")


def serve_basics(host: Host, protocols: Callable[[], Iterable[str]]) -> None:
    """Answer ping and identify on `host`; `protocols()` are those it serves now."""

    async def answer_identify(stream: Stream) -> None:
        addresses = [encode_listen(a) for a in host.addresses if isinstance(a, Address)]
        key = _KEY_PREFIX + host.peer_id.public_key
        identity = Identity(key, addresses, sorted(protocols()))
        body = identity.encode()
        await stream.send(_varint(len(body)) + body)

    host.set_handler(PING_PROTOCOL, _answer_ping)
    host.set_handler(IDENTIFY_PROTOCOL, answer_identify)


async def identify(connection: Connection) -> Identity:
    """Ask a peer who it is. Raises TransportError or RemoteProtocolError, also for another key."""
    stream = await connection.open_stream(IDENTIFY_PROTOCOL)
    data = bytearray()
    async with _deadline("identify"):
        while piece := await stream.receive():
            data += piece
            if len(data) > IDENTIFY_BYTES_MAX:
                raise RemoteProtocolError("An Identify message is too long.")
    stream.finish()
    size, at = _read_varint(bytes(data), 0)
    identity = Identity.decode(bytes(data[at : at + size]))
    if identity.public_key and identity.public_key != _key_of(connection.peer_id):
        raise RemoteProtocolError("The peer names another key than its certificate proves.")
    return identity


async def ping(connection: Connection, payload: bytes) -> float:
    """Seconds of one round trip with `payload` (32 bytes)."""
    stream = await connection.open_stream(PING_PROTOCOL)
    began = monotonic()
    await stream.send(payload)
    answer = bytearray()
    async with _deadline("ping"):
        while len(answer) < PING_BYTES and (piece := await stream.receive()):
            answer += piece
    elapsed_s = monotonic() - began
    stream.finish()
    if answer != payload:
        raise RemoteProtocolError("The peer answered a ping with other bytes.")
    return elapsed_s


async def _answer_ping(stream: Stream) -> None:
    with contextlib.suppress(TransportError):
        while (piece := await stream.receive()) is not None:
            await stream.send(piece)


@contextlib.asynccontextmanager
async def _deadline(what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            yield
    except TimeoutError:
        raise TimedOut(f"The peer did not answer {what} in {ANSWER_TIMEOUT_S:g} s.") from None


def _key_of(peer_id: PeerId) -> bytes:
    return _KEY_PREFIX + peer_id.public_key


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, of at most four bytes, and where it ends."""
    number = 0
    for shift in range(0, 28, 7):
        if at >= len(data):
            raise RemoteProtocolError("An Identify message is cut short.")
        number |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return number, at
    raise RemoteProtocolError("An Identify message has a number that is too long.")
