"""The rendezvous of a relay: signed records under a name, until they expire.

`/piecework/rendezvous/1`, framed as in `relay_messages`; many requests a stream, each answered
before the next is read, by its answer or by a `Refused`.

    Register        {register: {namespace, record}}       Registered  {expires_at_s}
    Unregister      {unregister: {namespace}}             Registered  {expires_at_s: 0}
    Discover        {discover: {namespace, limit, …}}     Discovered  {records, next?}

The relay can keep a record back, but not alter one: whoever gets it verifies it.
"""

from dataclasses import dataclass
from typing import Final

from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.limits import NAME_BYTES_MAX
from protocol.record import decode_canonical, decode_fields, encode_canonical, encode_fields

__all__ = [
    "DISCOVER_RECORDS_MAX",
    "DISCOVER_RECORD_BYTES_MAX",
    "RENDEZVOUS_BYTES_MAX",
    "RENDEZVOUS_PROTOCOL",
    "RENDEZVOUS_RECORD_BYTES_MAX",
    "RENDEZVOUS_REQUEST_BYTES_MAX",
    "Discover",
    "Discovered",
    "Register",
    "Registered",
    "RendezvousRequest",
    "Unregister",
    "decode_rendezvous_request",
]

RENDEZVOUS_PROTOCOL: Final = "/piecework/rendezvous/1"

RENDEZVOUS_RECORD_BYTES_MAX: Final = 4096
"""An announcement with ten addresses is about 1 KiB."""

DISCOVER_RECORDS_MAX: Final = 64
"""Records of one answer; more are asked for with `after`."""

DISCOVER_RECORD_BYTES_MAX: Final = 64 * 1024
"""Of all records of one answer: it must not cost a relay much to hold for a slow reader."""

RENDEZVOUS_BYTES_MAX: Final = DISCOVER_RECORD_BYTES_MAX + 1024
"""An answer, with the heads of its records."""

RENDEZVOUS_REQUEST_BYTES_MAX: Final = RENDEZVOUS_RECORD_BYTES_MAX + 2 * NAME_BYTES_MAX
"""The largest record under the longest name."""


@dataclass(frozen=True, slots=True)
class Register:
    """Keep this signed record of mine under that name until it expires."""

    namespace: str
    record: bytes
    """An encoded Envelope whose payload has `issued_at_s` and `expires_at_s`."""

    def __post_init__(self) -> None:
        _check_namespace(self.namespace)
        if not 0 < len(self.record) <= RENDEZVOUS_RECORD_BYTES_MAX:
            raise RemoteProtocolError(
                f"A record here has 1 to {RENDEZVOUS_RECORD_BYTES_MAX} bytes."
            )

    def encode(self) -> bytes:
        return _encode_request("register", self)


@dataclass(frozen=True, slots=True)
class Unregister:
    """Forget my record under that name now."""

    namespace: str

    def __post_init__(self) -> None:
        _check_namespace(self.namespace)

    def encode(self) -> bytes:
        return _encode_request("unregister", self)


@dataclass(frozen=True, slots=True)
class Discover:
    """Give me the records under that name, in the order of their signers' keys."""

    namespace: str
    limit: int
    peer: PeerId | None = None
    """Only this peer's."""
    after: PeerId | None = None
    """Only those behind this peer's: the `next` of the answer before."""

    def __post_init__(self) -> None:
        _check_namespace(self.namespace)
        if not 1 <= self.limit <= DISCOVER_RECORDS_MAX:
            raise RemoteProtocolError(f"One answer has 1 to {DISCOVER_RECORDS_MAX} records.")

    def encode(self) -> bytes:
        return _encode_request("discover", self)


RendezvousRequest = Register | Unregister | Discover
_REQUESTS: Final[dict[str, type[RendezvousRequest]]] = {
    "register": Register,
    "unregister": Unregister,
    "discover": Discover,
}


def decode_rendezvous_request(data: bytes) -> RendezvousRequest:
    """Parse a stranger's request; raises RemoteProtocolError."""
    value = decode_canonical(data, size_max=RENDEZVOUS_REQUEST_BYTES_MAX)
    if not isinstance(value, dict) or len(value) != 1:
        raise RemoteProtocolError("A request is a map of one entry.")
    ((name, fields),) = value.items()
    kind = _REQUESTS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise RemoteProtocolError("A request is one of register, unregister and discover.")
    return decode_fields(kind, fields)


@dataclass(frozen=True, slots=True)
class Registered:
    """The record is kept until then; 0: nothing is kept."""

    expires_at_s: int

    def encode(self) -> bytes:
        return encode_canonical(encode_fields(self))


@dataclass(frozen=True, slots=True)
class Discovered:
    """Encoded envelopes as their signers sent them: the receiver verifies each himself."""

    records: tuple[bytes, ...]
    next: PeerId | None = None
    """There may be more: ask again with `after` this peer."""

    def __post_init__(self) -> None:
        if len(self.records) > DISCOVER_RECORDS_MAX:
            raise RemoteProtocolError(f"One answer has at most {DISCOVER_RECORDS_MAX} records.")
        if sum(map(len, self.records)) > DISCOVER_RECORD_BYTES_MAX:
            raise RemoteProtocolError("The records of one answer are too large together.")

    def encode(self) -> bytes:
        return encode_canonical(encode_fields(self))


def _encode_request(name: str, request: object) -> bytes:
    """A map of one entry: what is asked, and its fields."""
    return encode_canonical({name: encode_fields(request)})


def _check_namespace(namespace: str) -> None:
    if not 0 < len(namespace.encode()) <= NAME_BYTES_MAX or not namespace.isprintable():
        raise RemoteProtocolError(f"A namespace has 1 to {NAME_BYTES_MAX} printable bytes.")
