"""What a node and a relay say to one another beyond circuit relay v2, on one page.

Streams of the control plane (`transport/control/base.py`) carry these messages, each as a 4-byte
big-endian length and one map in canonical CBOR. A request is answered by its answer or by a
`Refused`, which alone has a `code`; the codes are those of circuit relay v2.

    /piecework/forward/1      a UDP circuit between the asker and another peer. The circuit lives
                              as long as the stream is open, and a short grace more if it broke,
                              so that nobody has to free it.
        ForwardRequest  {other}
        ForwardGrant    {circuit, expires_at_s, host, ports, secret_ours, secret_theirs}

    /piecework/where/1        where the relay's UDP side is: its forwarder and reflector. The relay
                              speaks first, and ends the stream.
        Where           {host, ports}

    /piecework/rendezvous/1   see rendezvous_messages

The asker holds side 0 of a circuit and gives side 1's secret to the other peer, over a stream that
the relay cannot read. No clock here: seconds are unix seconds.
"""

import ipaddress
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeVar

from protocol.datagram import CIRCUIT_BYTES, DATAGRAM_KEY_BYTES
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.limits import NAME_BYTES_MAX
from protocol.record import decode_canonical, decode_fields, encode_canonical, encode_fields

__all__ = [
    "FORWARD_BYTES_MAX",
    "FORWARD_PROTOCOL",
    "WHERE_PROTOCOL",
    "ForwardGrant",
    "ForwardRequest",
    "RefusalCode",
    "Refused",
    "Where",
    "decode_answer",
]

FORWARD_PROTOCOL: Final = "/piecework/forward/1"
WHERE_PROTOCOL: Final = "/piecework/where/1"

FORWARD_BYTES_MAX: Final = 4096
"""A grant with its ports and a reason of refusal are both under 1 KiB."""

PORTS_MAX: Final = 8

A = TypeVar("A")


class RefusalCode(IntEnum):
    """Why a relay said no: the status codes of circuit relay v2 that can occur here."""

    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer to anything that is not granted. `error` names the limit or the reason."""

    error: str
    code: RefusalCode

    def __post_init__(self) -> None:
        if len(self.error.encode()) > NAME_BYTES_MAX:
            raise RemoteProtocolError(f"A reason has at most {NAME_BYTES_MAX} bytes.")

    @classmethod
    def because(cls, reason: str, code: RefusalCode) -> "Refused":
        """With the reason cut to what fits: it may quote what the peer sent."""
        return cls(reason.encode()[:NAME_BYTES_MAX].decode(errors="ignore"), code)

    def encode(self) -> bytes:
        return encode_canonical(encode_fields(self))


@dataclass(frozen=True, slots=True)
class ForwardRequest:
    """Lend me a UDP circuit to `other`."""

    other: PeerId

    def encode(self) -> bytes:
        return encode_canonical(encode_fields(self))

    @classmethod
    def decode(cls, data: bytes) -> "ForwardRequest":
        return decode_fields(cls, decode_canonical(data, size_max=FORWARD_BYTES_MAX))


@dataclass(frozen=True, slots=True)
class ForwardGrant:
    """A circuit at the relay's UDP forwarder: BIND with a side's secret, then FORWARDED."""

    circuit: bytes
    secret_ours: bytes
    """Of side 0, the asker's."""
    secret_theirs: bytes
    """Of side 1; the asker passes it on."""
    host: str
    """Where the forwarder is; empty: at the address under which this relay was reached."""
    ports: tuple[int, ...]
    """Any of them forwards."""
    expires_at_s: int
    """The circuit ends then at the latest; 0: it has no such end."""

    def __post_init__(self) -> None:
        if len(self.circuit) != CIRCUIT_BYTES:
            raise RemoteProtocolError(f"A circuit's name has {CIRCUIT_BYTES} bytes.")
        if {len(self.secret_ours), len(self.secret_theirs)} != {DATAGRAM_KEY_BYTES}:
            raise RemoteProtocolError(f"A circuit's secrets have {DATAGRAM_KEY_BYTES} bytes.")
        _check_host(self.host)
        if not 1 <= len(self.ports) <= PORTS_MAX or not all(0 < p < 65536 for p in self.ports):
            raise RemoteProtocolError(f"A grant names 1 to {PORTS_MAX} UDP ports.")
        if self.expires_at_s < 0:
            raise RemoteProtocolError("A grant cannot expire before 1970.")

    def encode(self) -> bytes:
        return encode_canonical(encode_fields(self))

    def __repr__(self) -> str:
        return f"ForwardGrant({self.circuit.hex()}, secrets withheld)"


@dataclass(frozen=True, slots=True)
class Where:
    """The relay's UDP side. Each of the ports forwards and reflects."""

    host: str
    """Empty: at the address under which this relay was reached."""
    ports: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_host(self.host)
        if not 1 <= len(self.ports) <= PORTS_MAX or not all(0 < p < 65536 for p in self.ports):
            raise RemoteProtocolError(f"A relay names 1 to {PORTS_MAX} UDP ports.")

    def encode(self) -> bytes:
        return encode_canonical(encode_fields(self))


def _check_host(host: str) -> None:
    """A name would be looked up by whoever sends there, in the middle of everything else."""
    try:
        address = ipaddress.ip_address(host) if host else None
    except ValueError:
        raise RemoteProtocolError(f"'{host[:64]}' is not an IP address.") from None
    if address is not None and (address.is_multicast or address.is_unspecified):
        raise RemoteProtocolError(f"{host} is no relay's own address.")


def decode_answer(kind: type[A], data: bytes, *, size_max: int = FORWARD_BYTES_MAX) -> A | Refused:
    """A relay's answer: what was asked for, or why not. Raises RemoteProtocolError."""
    value = decode_canonical(data, size_max=size_max)
    if isinstance(value, dict) and "code" in value:
        return decode_fields(Refused, value)
    return decode_fields(kind, value)
