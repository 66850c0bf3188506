"""The LAN's fast streams on the wire, on one page. All integers are big-endian.

1. Over the QUIC connection, whose peer is verified, on a stream of `/piecework/lan/1` that stays
   open as long as the fast path is wanted; each message is one frame:

    WANT 0x01     dialler → listener: tickets, please
    0  1 type   1  1 how many
    OFFER 0x02    listener → dialler, to each WANT
    0  1 type   1  2 TCP port   3  32 SHA-256 of the TLS certificate   35  4 lifetime, ms
    39 1 hosts  then each: 1 family (4 or 6), 16 address (IPv4 in its first 4), 4 speed in Mbit/s
       1 tickets  then each: 32

2. Over TCP, one connection per stream: TLS 1.3, ALPN `piecework-lan/1`, a throw-away certificate.
   The dialler sends nothing before it has compared the certificate's hash with the offer's.

    OPENING       dialler → listener
    0  32 ticket   32  2 length   34  protocol name
    ACCEPTED      listener → dialler
    0  1 0x01      1  32 the next ticket, for the stream after this one

3. Then, both ways, chunks: a 4-byte header (kind, then a 24-bit length), then that many bytes.

    DATA 0        bytes of frames, cut anywhere; frames are as on every stream (framing.py)
    FIN 1         no more data follows
    RESET 2       8: code. No more data follows, what came may be dropped
    STOP 3        8: code. Send no more; nothing is read. Answered by RESET, unless FIN was sent
    ENDED 4       your FIN or RESET has arrived; who has sent and received this may close TCP

FIN, RESET and STOP are QUIC's (RFC 9000 sections 2.4 and 3.5). ENDED is needed because closing
a socket may throw away what the other end has not read. A connection that ends otherwise is a
peer that is gone.
"""

import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.errors import RemoteProtocolError

__all__ = [
    "ACCEPTED_BYTES",
    "CHUNK_BYTES_MAX",
    "CODE_BYTES",
    "HEADER_BYTES",
    "LAN_ALPN",
    "LAN_PROTOCOL",
    "OPENING_BYTES",
    "TICKET_BYTES",
    "ChunkKind",
    "LanHost",
    "Offer",
    "Want",
    "accepted",
    "chunk_header",
    "code_chunk",
    "decode_accepted",
    "opening",
    "opening_name_bytes",
]

LAN_PROTOCOL: Final = "/piecework/lan/1"
LAN_ALPN: Final = "piecework-lan/1"
TICKET_BYTES: Final = 32
HASH_BYTES: Final = 32
OPENING_BYTES: Final = TICKET_BYTES + 2
ACCEPTED_BYTES: Final = 1 + TICKET_BYTES
NAME_LENGTH_MAX: Final = 256
HEADER_BYTES: Final = 4
CODE_BYTES: Final = 8
CHUNK_BYTES_MAX: Final = 2**24 - 1
RESET_CODE_MAX: Final = 2**62 - 1
"""QUIC's codes are 62 bits long; ours must fit both."""

_WANT: Final = struct.Struct(">BB")
_OFFER: Final = struct.Struct(">BH32sIB")
_HOST: Final = struct.Struct(">B16sI")


class ChunkKind(IntEnum):
    DATA = 0
    FIN = 1
    RESET = 2
    STOP = 3
    ENDED = 4


@dataclass(frozen=True, slots=True)
class Want:
    count: int

    def encode(self) -> bytes:
        return _WANT.pack(1, self.count)

    @classmethod
    def decode(cls, frame: bytes) -> "Want":
        if len(frame) != _WANT.size or frame[0] != 1:
            raise RemoteProtocolError("That is not a WANT message.")
        return cls(frame[1])


@dataclass(frozen=True, slots=True)
class LanHost:
    """One address of the listener, and how fast its interface is (0: it does not know)."""

    host: str
    speed_mbits: int


@dataclass(frozen=True, slots=True)
class Offer:
    """Where to connect, what to expect there, and tickets to get in with."""

    port: int
    certificate_hash: bytes
    lifetime_ms: int
    hosts: tuple[LanHost, ...]
    tickets: tuple[bytes, ...]

    def encode(self) -> bytes:
        head = _OFFER.pack(2, self.port, self.certificate_hash, self.lifetime_ms, len(self.hosts))
        hosts = b"".join(map(_encode_host, self.hosts))
        return b"".join((head, hosts, bytes((len(self.tickets),)), *self.tickets))

    @classmethod
    def decode(cls, frame: bytes, *, hosts_max: int) -> "Offer":
        """Raises RemoteProtocolError for everything but a whole and sensible OFFER."""
        if len(frame) <= _OFFER.size or frame[0] != 2:
            raise RemoteProtocolError("That is not an OFFER message.")
        _, port, certificate_hash, lifetime_ms, host_count = _OFFER.unpack_from(frame)
        tickets_at = _OFFER.size + host_count * _HOST.size
        if host_count > hosts_max or port == 0 or tickets_at >= len(frame):
            raise RemoteProtocolError("An OFFER names no port, too many hosts, or is cut short.")
        hosts = tuple(
            _decode_host(frame, _OFFER.size + index * _HOST.size) for index in range(host_count)
        )
        rest = frame[tickets_at + 1 :]
        if len(rest) != frame[tickets_at] * TICKET_BYTES:
            raise RemoteProtocolError("An OFFER's tickets do not fill it.")
        tickets = tuple(rest[at : at + TICKET_BYTES] for at in range(0, len(rest), TICKET_BYTES))
        return cls(port, certificate_hash, lifetime_ms, hosts, tickets)


def opening(ticket: bytes, protocol: str) -> bytes:
    """Raises ValueError for a name that no peer would accept."""
    name = protocol.encode()
    if not 0 < len(name) <= NAME_LENGTH_MAX:
        raise ValueError(f"'{protocol[:64]}' is not a protocol name.")
    return ticket + len(name).to_bytes(2, "big") + name


def opening_name_bytes(head: bytes) -> int:
    """How long the name after the first OPENING_BYTES is; raises RemoteProtocolError."""
    size = int.from_bytes(head[TICKET_BYTES:OPENING_BYTES], "big")
    if not 0 < size <= NAME_LENGTH_MAX:
        raise RemoteProtocolError(f"A protocol name has 1 to 256 bytes, not {size}.")
    return size


def accepted(ticket: bytes) -> bytes:
    return b"\x01" + ticket


def decode_accepted(answer: bytes) -> bytes:
    """The next ticket; raises RemoteProtocolError."""
    if len(answer) != ACCEPTED_BYTES or answer[0] != 1:
        raise RemoteProtocolError("The listener did not answer the ticket as it should.")
    return answer[1:]


def chunk_header(kind: ChunkKind, size: int) -> bytes:
    return (kind << 24 | size).to_bytes(HEADER_BYTES, "big")


def code_chunk(kind: ChunkKind, code: int) -> bytes:
    """A RESET or STOP; a code that does not fit is sent as the largest."""
    code = min(max(code, 0), RESET_CODE_MAX)
    return chunk_header(kind, CODE_BYTES) + code.to_bytes(CODE_BYTES, "big")


def _encode_host(host: LanHost) -> bytes:
    address = ipaddress.ip_address(host.host)
    return _HOST.pack(address.version, address.packed.ljust(16, b"\0"), host.speed_mbits)


def _decode_host(frame: bytes, at: int) -> LanHost:
    family, packed, speed_mbits = _HOST.unpack_from(frame, at)
    if family not in (4, 6):
        raise RemoteProtocolError(f"An OFFER's host of family {family} is neither IPv4 nor IPv6.")
    return LanHost(str(ipaddress.ip_address(packed[: 4 if family == 4 else 16])), speed_mbits)
