"""Signalling: what two peers tell each other over a relay to find a direct path.

    initiator → responder   CONNECT   link, key, my candidates, your side of a relay circuit
    responder → initiator   CONNECT   the same round, its candidates
    initiator → responder   SYNC      the responder begins to punch when this arrives, the
                                      initiator half a round trip after sending it

as in libp2p's DCUtR (specs, relay/DCUtR.md), with the roles of QUIC settled by who dials. A later
round (the path died, an address changed) is the same exchange on the same or a new stream; either
side may begin it by CONNECT. A message is 4 bytes of length and one canonical CBOR map.
"""

import ipaddress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocol.datagram import CIRCUIT_BYTES, DATAGRAM_KEY_BYTES, LINK_BYTES
from protocol.errors import RemoteProtocolError
from protocol.record import decode_canonical, decode_fields, encode_canonical, encode_fields

__all__ = [
    "CANDIDATES_MAX",
    "REACH_BYTES_MAX",
    "Candidate",
    "CandidateKind",
    "CircuitSide",
    "Connect",
    "Filtering",
    "Mapping",
    "NATHints",
    "Sync",
    "decode_reach",
    "encode_reach",
]

REACH_BYTES_MAX: Final = 4096
"""DCUtR's own limit; sixteen candidates and two circuits are under 1 KiB."""

CANDIDATES_MAX: Final = 16
"""Each costs a probe every 40 ms while punching."""

CIRCUITS_MAX: Final = 2
ROUNDS_MAX: Final = 10_000


class CandidateKind(StrEnum):
    """Where an address of the data socket comes from."""

    LAN = "lan"
    """An address of an interface."""
    IPV6 = "ipv6"
    """A global address of an interface: no NAT, perhaps a firewall."""
    OBSERVED = "observed"
    """What a relay's reflector saw of the data socket."""
    MAPPED = "mapped"
    """What a router promised by UPnP or NAT-PMP."""


class Mapping(StrEnum):
    """Does the port seen from outside depend on whom we send to (RFC 4787 section 4.1)?"""

    UNKNOWN = "unknown"
    NONE = "none"
    """No NAT: the address seen from outside is one of our own."""
    INDEPENDENT = "independent"
    DEPENDENT = "dependent"
    """Symmetric: another port for another destination, so an observed address is no candidate."""
    BLOCKED = "blocked"
    """No UDP gets out."""


class Filtering(StrEnum):
    """Who may send in (RFC 4787 section 5)? Address-dependent and independent are told apart only
    by reflectors at two addresses; for punching the difference is none."""

    UNKNOWN = "unknown"
    OPEN = "open"
    """From another port of a host we sent to, at least."""
    PORT_DEPENDENT = "port_dependent"
    """Only from exactly where we sent."""


@dataclass(frozen=True, slots=True)
class NATHints:
    """One side's NAT. `ports` are those observed by different reflector sockets, oldest first."""

    mapping: Mapping = Mapping.UNKNOWN
    filtering: Filtering = Filtering.UNKNOWN
    ports: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.ports) > CANDIDATES_MAX or not all(0 < p < 65536 for p in self.ports):
            raise RemoteProtocolError("Those are not observed ports.")

    @property
    def is_symmetric(self) -> bool:
        return self.mapping is Mapping.DEPENDENT

    @property
    def port_delta(self) -> int | None:
        """From one new mapping to the next, where the observed ports show a regular step."""
        steps = {b - a for a, b in zip(self.ports, self.ports[1:], strict=False)}
        return steps.pop() if len(steps) == 1 and 0 not in steps else None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One place where a peer's data socket may be reached. `host` is a literal address."""

    kind: CandidateKind
    host: str
    port: int

    def __post_init__(self) -> None:
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:
            raise RemoteProtocolError(f"'{self.host[:64]}' is not an IP address.") from None
        if address.is_multicast or address.is_unspecified or self.host == "255.255.255.255":
            raise RemoteProtocolError(f"{self.host} is nobody's own address.")
        if not 0 < self.port < 65536:
            raise RemoteProtocolError(f"{self.port} is not a port.")

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.host).is_loopback


@dataclass(frozen=True, slots=True)
class CircuitSide:
    """The receiver's side of a circuit at a relay's UDP forwarder (protocol/datagram.py)."""

    host: str
    port: int
    circuit: bytes
    side: int
    secret: bytes

    def __post_init__(self) -> None:
        Candidate(CandidateKind.OBSERVED, self.host, self.port)
        if len(self.circuit) != CIRCUIT_BYTES or len(self.secret) != DATAGRAM_KEY_BYTES:
            raise RemoteProtocolError("A circuit has 8 bytes and its secret 32.")
        if self.side not in (0, 1):
            raise RemoteProtocolError(f"A circuit has the sides 0 and 1, not {self.side}.")


@dataclass(frozen=True, slots=True)
class Connect:
    """`key` authenticates the probes of this link; only the first CONNECT's counts."""

    round: int
    link: bytes
    key: bytes
    hints: NATHints
    candidates: tuple[Candidate, ...]
    circuits: tuple[CircuitSide, ...] = ()

    def __post_init__(self) -> None:
        if len(self.link) != LINK_BYTES or len(self.key) != DATAGRAM_KEY_BYTES:
            raise RemoteProtocolError("A link's id has 8 bytes and its key 32.")
        if not 0 <= self.round <= ROUNDS_MAX:
            raise RemoteProtocolError(f"{self.round} is no round of signalling.")
        if len(self.candidates) > CANDIDATES_MAX or len(self.circuits) > CIRCUITS_MAX:
            raise RemoteProtocolError("That is more candidates or circuits than anyone needs.")


@dataclass(frozen=True, slots=True)
class Sync:
    """Begin to punch now."""

    round: int


_TYPES: Final[dict[str, type[Connect] | type[Sync]]] = {"connect": Connect, "sync": Sync}


def encode_reach(message: Connect | Sync) -> bytes:
    """The CBOR map, without its length."""
    name = "connect" if isinstance(message, Connect) else "sync"
    return encode_canonical({"type": name, **encode_fields(message)})


def decode_reach(data: bytes) -> Connect | Sync | None:
    """None for a type of a later version, which is skipped. Raises RemoteProtocolError."""
    fields = decode_canonical(data, size_max=REACH_BYTES_MAX)
    if not isinstance(fields, dict) or not isinstance(name := fields.pop("type", None), str):
        raise RemoteProtocolError("A message of the reach protocol is a map with a type.")
    kind = _TYPES.get(name)
    return None if kind is None else decode_fields(kind, fields)
