"""Circuit relay v2 on one page: what a node and a relay say to each other before bytes flow.

    HOP   node → relay   RESERVE                          STATUS(reservation, limit) ← relay
          node → relay   CONNECT(peer)                    STATUS(limit) ← relay, then raw bytes
    STOP  relay → node   CONNECT(peer = who calls, limit) STATUS ← node, then raw bytes

Each is a varint length and a protobuf message, alone on a stream of its own. Source: libp2p specs,
relay/circuit-v2.md. What is unknown is skipped, an unknown status kept as its number. libp2p's
generated classes are imported lazily, since that takes most of a second.
"""

import asyncio
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Self, TypeVar

from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from transport.control.base import ControlStream
from transport.errors import TimedOut

__all__ = [
    "CIRCUIT_MESSAGE_BYTES_MAX",
    "HOP_PROTOCOL",
    "STOP_PROTOCOL",
    "CircuitLimit",
    "HopMessage",
    "HopType",
    "RelayReservation",
    "Status",
    "StopMessage",
    "StopType",
    "read_message",
    "split_message",
    "status_text",
    "write_message",
]

HOP_PROTOCOL: Final = "/libp2p/circuit/relay/0.2.0/hop"
STOP_PROTOCOL: Final = "/libp2p/circuit/relay/0.2.0/stop"

CIRCUIT_MESSAGE_BYTES_MAX: Final = 4 * 1024
"""The specification's own bound. A reservation with a dozen addresses has about 700 bytes."""

_LENGTH_BYTES_MAX: Final = 2
"""Bytes of a varint up to 4 KiB."""


class Status(IntEnum):
    """The relay's or the called node's answer."""

    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


class HopType(IntEnum):
    RESERVE = 0
    CONNECT = 1
    STATUS = 2


class StopType(IntEnum):
    CONNECT = 0
    STATUS = 1


@dataclass(frozen=True, slots=True)
class CircuitLimit:
    """What one circuit may last and carry each way; 0 is no limit."""

    duration_s: int = 0
    data_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RelayReservation:
    """What a relay grants; `transport.control.base.Reservation` is what a node makes of it."""

    expires_at_s: int
    """Unix seconds."""
    addresses: tuple[bytes, ...] = ()
    """The relay's own, as binary multiaddrs (`multiaddr_bytes`), without `/p2p-circuit`."""
    voucher: bytes = b""
    """A signed envelope; we neither need nor check one."""


@dataclass(frozen=True, slots=True)
class HopMessage:
    """Node ↔ relay; which fields count depends on `type`."""

    type: HopType
    peer: PeerId | None = None
    """CONNECT: who is called."""
    reservation: RelayReservation | None = None
    limit: CircuitLimit | None = None
    status: int | None = None
    """STATUS: a `Status`, or the number of one we do not know."""

    def encode(self) -> bytes:
        message = _classes().HopMessage()
        message.type = int(self.type)
        _set_shared(message, self.peer, self.limit, self.status)
        if self.reservation is not None:
            message.reservation.expire = self.reservation.expires_at_s
            message.reservation.addrs.extend(self.reservation.addresses)
            if self.reservation.voucher:
                message.reservation.voucher = self.reservation.voucher
        return bytes(message.SerializeToString())

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises RemoteProtocolError for whatever is not such a message."""
        message = _parse(_classes().HopMessage(), data)
        reservation = None
        if message.HasField("reservation"):
            granted = message.reservation
            reservation = RelayReservation(
                granted.expire, tuple(granted.addrs), bytes(granted.voucher)
            )
        return cls(_type(HopType, message), *_shared(message, reservation))


@dataclass(frozen=True, slots=True)
class StopMessage:
    """Relay ↔ the node that is called."""

    type: StopType
    peer: PeerId | None = None
    """CONNECT: who calls, as the relay says; Noise proves it afterwards."""
    limit: CircuitLimit | None = None
    status: int | None = None

    def encode(self) -> bytes:
        message = _classes().StopMessage()
        message.type = int(self.type)
        _set_shared(message, self.peer, self.limit, self.status)
        return bytes(message.SerializeToString())

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises RemoteProtocolError for whatever is not such a message."""
        message = _parse(_classes().StopMessage(), data)
        peer, _, limit, status = _shared(message, None)
        return cls(_type(StopType, message), peer, limit, status)


M = TypeVar("M", HopMessage, StopMessage)
T = TypeVar("T", HopType, StopType)


async def read_message(stream: ControlStream, message_class: type[M], *, timeout_s: float) -> M:
    """The next message of `stream`, and not a byte more, for what follows is not ours.

    Raises RemoteProtocolError (too long, cut short, malformed), TimedOut, PeerGone, StreamReset.
    """
    try:
        async with asyncio.timeout(timeout_s):
            body = await _read_exactly(stream, await _read_length(stream))
    except TimeoutError:
        raise TimedOut(f"No circuit message came within {timeout_s:g} s.") from None
    return message_class.decode(body)


def split_message(data: bytes) -> tuple[bytes, bytes] | None:
    """The message at the front of `data`, and the rest; None while it is not whole.

    Raises RemoteProtocolError for one that is too long.
    """
    size = 0
    for index, byte in enumerate(data[:_LENGTH_BYTES_MAX]):
        size |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if size > CIRCUIT_MESSAGE_BYTES_MAX:
                break
            end = index + 1 + size
            return (data[index + 1 : end], data[end:]) if len(data) >= end else None
    else:
        if len(data) < _LENGTH_BYTES_MAX:
            return None
    raise RemoteProtocolError(f"A circuit message has at most {CIRCUIT_MESSAGE_BYTES_MAX} bytes.")


async def write_message(stream: ControlStream, message: HopMessage | StopMessage) -> None:
    """Raises PeerGone or StreamReset."""
    body = message.encode()
    size = len(body)
    prefix = bytes((size,)) if size < 0x80 else bytes((size & 0x7F | 0x80, size >> 7))
    await stream.write(prefix + body)


def status_text(status: int | None) -> str:
    """For messages to people: `NO_RESERVATION (204)`."""
    known = next((s.name for s in Status if s == status), "an unknown status")
    return f"{known} ({status})"


async def _read_length(stream: ControlStream) -> int:
    size = 0
    for index in range(_LENGTH_BYTES_MAX):
        (byte,) = await _read_exactly(stream, 1)
        size |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if size > CIRCUIT_MESSAGE_BYTES_MAX:
                break
            return size
    raise RemoteProtocolError(f"A circuit message has at most {CIRCUIT_MESSAGE_BYTES_MAX} bytes.")


async def _read_exactly(stream: ControlStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.read(size - len(data))
        if not more:
            raise RemoteProtocolError("The stream ended within a circuit message.")
        data += more
    return data


def _classes() -> Any:
    from transport.control.library import circuit_pb2

    return circuit_pb2


def _set_shared(
    message: Any, peer: PeerId | None, limit: CircuitLimit | None, status: int | None
) -> None:
    if peer is not None:
        message.peer.id = peer.multihash
    if limit is not None:
        message.limit.duration = limit.duration_s
        message.limit.data = limit.data_bytes
    if status is not None:
        message.status = int(status)


def _parse(message: Any, data: bytes) -> Any:
    try:
        message.ParseFromString(data)
    except Exception:  # protobuf's DecodeError; of protobuf itself we import nothing
        raise RemoteProtocolError("A circuit message is not valid protobuf.") from None
    return message


def _type(types: type[T], message: Any) -> T:
    if not message.HasField("type"):
        raise RemoteProtocolError("A circuit message has no type.")
    try:
        return types(message.type)
    except ValueError:
        raise RemoteProtocolError(f"A circuit message of type {message.type} is unknown.") from None


def _shared(
    message: Any, reservation: RelayReservation | None
) -> tuple[PeerId | None, RelayReservation | None, CircuitLimit | None, int | None]:
    peer = PeerId.from_multihash(message.peer.id) if message.HasField("peer") else None
    limit = None
    if message.HasField("limit"):
        limit = CircuitLimit(message.limit.duration, message.limit.data)
    status = message.status if message.HasField("status") else None
    return peer, reservation, limit, status
