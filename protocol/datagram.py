"""Our own datagrams on the data socket, on one page: they share a UDP port with QUIC.

A QUIC packet always has bit 0x40 in its first byte; ours have a first byte from 4 to 15 (RFC 9443
leaves 0 to 3 to STUN), so one look tells them apart. All integers are big-endian.

    REFLECT 0x04      node → relay: which address do I come from?
    0  1 type   1  1 flags (1: answer from your other port)   2  8 transaction   10 zeros up to 32
    REFLECTED 0x05    relay → node
    0  1 type   1  1 flags (1: this is the other port; 2: there is another port)
    2  8 transaction
    10 2 port   12 1 family (4 or 6)   13 16 address (IPv4 in its first 4), both XOR the transaction

    BIND 0x06         node → relay: send my side of this circuit to the address this comes from
    BOUND 0x07        relay → node: done; or: say it again with this cookie
    0  1 type   1  8 circuit   9  1 side (0 or 1)
    10 1 flags (BOUND 1: the other side is bound; 2: your side is, where this went, by your BIND)
    11 8 counter   19 8 cookie (BIND: the one last told, zeros at first; BOUND: the right one)
    27 16 MAC by the side's secret

    FORWARDED 0x08    node → relay → node: anything, unchanged, to the other side of the circuit
    0  1 type   1  8 circuit   9  the datagram

    PROBE 0x09        node → node: are you there? Opens the NAT, keeps it open, measures the path
    PROBED 0x0A       node → node: I am; answers to where the probe came from, and is not answered
    0  1 type   1  8 link   9  8 nonce   17 2 size (of the probe's whole datagram)
    19 16 MAC by the link's key   35  PROBE only: zeros up to its size

A nonce's first bit is 1 if the link's responder chose it, so that nobody takes its own PROBE,
thrown back by a mirror or by a private address that it has itself, for its peer's.

A BIND binds only with the cookie that the relay tells to the address it comes from: a source that
is made up never learns its cookie, so nothing is forwarded to who did not ask (return routability).

REFLECTED is no longer than REFLECT, BOUND than BIND, and PROBED never longer than PROBE, so nobody
is made to amplify. The XOR keeps NATs that rewrite addresses in payloads from helping (as in RFC
8489, 14.2).

A MAC is BLAKE2b-128 keyed with 32 secret bytes, over all that stands before it. A relay takes a
BIND only if its counter is above the last one, so an old one sent again moves nothing.
"""

import hashlib
import hmac
import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.errors import RemoteProtocolError

__all__ = [
    "CIRCUIT_BYTES",
    "COOKIE_BYTES",
    "DATAGRAM_KEY_BYTES",
    "FORWARDED_HEADER_BYTES",
    "LINK_BYTES",
    "Bind",
    "Bound",
    "DatagramType",
    "Probe",
    "Probed",
    "Reflect",
    "Reflected",
    "forwarded",
    "is_genuine",
]

CIRCUIT_BYTES: Final = 8
COOKIE_BYTES: Final = 8
LINK_BYTES: Final = 8
NONCE_BYTES: Final = 8
TRANSACTION_BYTES: Final = 8
DATAGRAM_KEY_BYTES: Final = 32
MAC_BYTES: Final = 16
FORWARDED_HEADER_BYTES: Final = 1 + CIRCUIT_BYTES
REFLECT_BYTES: Final = 32
PROBE_BYTES_MIN: Final = 19 + MAC_BYTES

_REFLECT: Final = struct.Struct(">BB8s22x")
_REFLECTED: Final = struct.Struct(">BB8s2sB16s")
_BIND: Final = struct.Struct(">B8sBBQ8s16s")
_PROBE: Final = struct.Struct(">B8s8sH16s")


class DatagramType(IntEnum):
    """The first byte."""

    REFLECT = 0x04
    REFLECTED = 0x05
    BIND = 0x06
    BOUND = 0x07
    FORWARDED = 0x08
    PROBE = 0x09
    PROBED = 0x0A


def forwarded(circuit: bytes, datagram: bytes) -> bytes:
    """A FORWARDED datagram; its circuit is at [1:9], its content from 9."""
    return b"\x08" + circuit + datagram


@dataclass(frozen=True, slots=True)
class Reflect:
    """Ask a reflector for the address that this socket has from outside."""

    transaction: bytes
    from_other_port: bool = False

    def encode(self) -> bytes:
        return _REFLECT.pack(DatagramType.REFLECT, self.from_other_port, self.transaction)

    @classmethod
    def decode(cls, data: bytes) -> "Reflect":
        if len(data) != REFLECT_BYTES:
            raise _wrong("REFLECT")
        _, flags, transaction = _REFLECT.unpack(data)
        return cls(transaction, bool(flags & 1))


@dataclass(frozen=True, slots=True)
class Reflected:
    """What the reflector saw. `host` is a literal address."""

    transaction: bytes
    host: str
    port: int
    from_other_port: bool = False
    has_other_port: bool = False

    def encode(self) -> bytes:
        address = ipaddress.ip_address(self.host)
        mask = self.transaction * 2
        return _REFLECTED.pack(
            DatagramType.REFLECTED,
            self.from_other_port | self.has_other_port << 1,
            self.transaction,
            _xor(self.port.to_bytes(2, "big"), mask),
            address.version,
            _xor(address.packed.ljust(16, b"\0"), mask),
        )

    @classmethod
    def decode(cls, data: bytes) -> "Reflected":
        if len(data) != _REFLECTED.size:
            raise _wrong("REFLECTED")
        _, flags, transaction, port, family, packed = _REFLECTED.unpack(data)
        if family not in (4, 6):
            raise RemoteProtocolError(f"A REFLECTED of family {family} is neither IPv4 nor IPv6.")
        mask = transaction * 2
        address = ipaddress.ip_address(_xor(packed, mask)[: 4 if family == 4 else 16])
        number = int.from_bytes(_xor(port, mask), "big")
        return cls(transaction, str(address), number, bool(flags & 1), bool(flags & 2))


@dataclass(frozen=True, slots=True)
class Bind:
    """One side of a circuit says where it is; with no cookie yet, it asks for one."""

    circuit: bytes
    side: int
    counter: int
    cookie: bytes = bytes(COOKIE_BYTES)

    def encode(self, secret: bytes) -> bytes:
        fields = (self.circuit, self.side, 0, self.counter, self.cookie)
        return _sealed_bind(DatagramType.BIND, *fields, secret)

    @classmethod
    def decode(cls, data: bytes) -> "Bind":
        """The fields; whether the MAC holds is `is_genuine`, once the secret is looked up."""
        circuit, side, _, counter, cookie = _bind_fields(data, "BIND")
        return cls(circuit, side, counter, cookie)


@dataclass(frozen=True, slots=True)
class Bound:
    """The relay's answer to a Bind: its `counter` is the Bind's, `cookie` the right one.

    `is_bound` False: that Bind changed nothing, for its cookie was another.
    """

    circuit: bytes
    side: int
    counter: int
    is_other_bound: bool
    is_bound: bool = True
    cookie: bytes = bytes(COOKIE_BYTES)

    def encode(self, secret: bytes) -> bytes:
        flags = self.is_other_bound | self.is_bound << 1
        fields = (self.circuit, self.side, flags, self.counter, self.cookie)
        return _sealed_bind(DatagramType.BOUND, *fields, secret)

    @classmethod
    def decode(cls, data: bytes) -> "Bound":
        circuit, side, flags, counter, cookie = _bind_fields(data, "BOUND")
        return cls(circuit, side, counter, bool(flags & 1), bool(flags & 2), cookie)


@dataclass(frozen=True, slots=True)
class Probe:
    """`size` is that of the whole datagram: a larger one asks whether the path carries it."""

    link: bytes
    nonce: bytes
    size: int = PROBE_BYTES_MIN

    def encode(self, key: bytes) -> bytes:
        return _sealed_probe(DatagramType.PROBE, self.link, self.nonce, self.size, key).ljust(
            self.size, b"\0"
        )

    @classmethod
    def decode(cls, data: bytes) -> "Probe":
        """The fields; whether the MAC holds is `is_genuine`, once the key is looked up."""
        link, nonce, size = _probe_fields(data, "PROBE")
        if size != len(data):
            raise RemoteProtocolError(f"A PROBE of {len(data)} bytes says that it has {size}.")
        return cls(link, nonce, size)


@dataclass(frozen=True, slots=True)
class Probed:
    """The answer to the Probe with that nonce; `size` is the Probe's."""

    link: bytes
    nonce: bytes
    size: int

    def encode(self, key: bytes) -> bytes:
        return _sealed_probe(DatagramType.PROBED, self.link, self.nonce, self.size, key)

    @classmethod
    def decode(cls, data: bytes) -> "Probed":
        if len(data) != PROBE_BYTES_MIN:
            raise _wrong("PROBED")
        return cls(*_probe_fields(data, "PROBED"))


def is_genuine(data: bytes, key: bytes) -> bool:
    """Whether the MAC of a BIND, BOUND, PROBE or PROBED is `key`'s (32 bytes)."""
    end = PROBE_BYTES_MIN if data[0] >= DatagramType.PROBE else _BIND.size
    return hmac.compare_digest(data[end - MAC_BYTES : end], _mac(data[: end - MAC_BYTES], key))


def _mac(data: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=MAC_BYTES, key=key).digest()


def _sealed_bind(
    kind: int, circuit: bytes, side: int, flags: int, counter: int, cookie: bytes, secret: bytes
) -> bytes:
    body = _BIND.pack(kind, circuit, side, flags, counter, cookie, b"")[:-MAC_BYTES]
    return body + _mac(body, secret)


def _bind_fields(data: bytes, name: str) -> tuple[bytes, int, int, int, bytes]:
    if len(data) != _BIND.size:
        raise _wrong(name)
    _, circuit, side, flags, counter, cookie, _ = _BIND.unpack(data)
    if side not in (0, 1):
        raise RemoteProtocolError(f"A circuit has the sides 0 and 1, not {side}.")
    return circuit, side, flags, counter, cookie


def _sealed_probe(kind: int, link: bytes, nonce: bytes, size: int, key: bytes) -> bytes:
    body = _PROBE.pack(kind, link, nonce, size, b"")[:-MAC_BYTES]
    return body + _mac(body, key)


def _probe_fields(data: bytes, name: str) -> tuple[bytes, bytes, int]:
    if len(data) < PROBE_BYTES_MIN:
        raise _wrong(name)
    _, link, nonce, size, _ = _PROBE.unpack_from(data)
    return link, nonce, size


def _xor(data: bytes, mask: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(data, mask, strict=False))


def _wrong(name: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"That is not a {name} datagram: its length is wrong.")
