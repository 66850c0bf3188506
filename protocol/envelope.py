"""Records and envelopes: what is said, who says it, and the signature over exactly those bytes.

    signature = Ed25519(domain ‖ 0x00 ‖ payload)      payload = canonical CBOR of the record

The received payload bytes are verified as they came, before any field is read; nothing is ever
re-serialised to be checked. The domain string holds the record's type and version, so a signature
over one kind of record is worthless for another.
"""

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

from protocol.errors import RecordExpired, RemoteProtocolError, WrongSigner
from protocol.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, KeyPair, PeerId, verify
from protocol.limits import RECORD_BYTES_MAX, RECORD_CLOCK_SKEW_S
from protocol.record import (
    byte_string,
    decode_canonical,
    decode_fields,
    encode_canonical,
    encode_fields,
)
from protocol.record_reader import read_record

__all__ = [
    "Envelope",
    "Record",
    "TimedRecord",
    "check_time",
    "open_envelope",
    "open_fields",
    "seal",
]


class Record(Protocol):
    """A frozen dataclass that is signed under its own domain string."""

    DOMAIN: ClassVar[str]


class TimedRecord(Record, Protocol):
    """A record that holds from one unix second until another."""

    @property
    def issued_at_s(self) -> int: ...

    @property
    def expires_at_s(self) -> int: ...


R = TypeVar("R", bound=Record)

_DOMAIN = b"\xa4\x66domain"
_SIGNER = b"\x66signer" + bytes((0x58, PUBLIC_KEY_BYTES))
_PAYLOAD = b"\x67payload"
_SIGNATURE = b"\x69signature" + bytes((0x58, SIGNATURE_BYTES))
"""What stands before each field of an envelope in canonical CBOR, in this order."""
_SHORT_TEXT = range(0x60, 0x60 + 24)
"""Heads of texts that are shorter than 24 bytes, as most domains are."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A record's bytes, signer and signature. Trust nothing in it before `open_envelope`."""

    domain: str
    payload: bytes
    signer: PeerId
    signature: bytes

    def encode(self) -> bytes:
        return encode_canonical(encode_fields(self))

    @classmethod
    def decode(cls, data: bytes) -> "Envelope":
        """Parse, but do not verify; raises RemoteProtocolError."""
        return _sliced(data) or decode_fields(cls, decode_canonical(data))

    @property
    def digest(self) -> bytes:
        """SHA-256 of the encoded envelope: how one record refers to another."""
        return hashlib.sha256(self.encode()).digest()


def seal(record: Record, key: KeyPair) -> Envelope:
    """Sign a record of ours."""
    payload = encode_canonical(encode_fields(record))
    signature = key.sign(_signed_bytes(record.DOMAIN, payload))
    return Envelope(record.DOMAIN, payload, key.peer_id, signature)


def open_envelope(kind: type[R], data: bytes | Envelope, *, signer: PeerId | None = None) -> R:
    """Verify a stranger's envelope and only then parse what it holds.

    `signer`: who alone may say this; without it the record names its own author and the caller
    compares. Raises RemoteProtocolError, SignatureInvalid or WrongSigner. Time is the caller's
    business (`check_time`): a receipt has none.
    """
    envelope = data if isinstance(data, Envelope) else Envelope.decode(data)
    if envelope.domain != kind.DOMAIN:
        raise RemoteProtocolError(f"Expected a {kind.DOMAIN}, got a {envelope.domain[:64]}.")
    if signer is not None and envelope.signer != signer:
        raise WrongSigner(f"Signed by {envelope.signer.short}, but only {signer.short} may say it.")
    _check_signature(envelope)
    record = read_record(kind, envelope.payload)
    if record is not None:
        return record
    return decode_fields(kind, decode_canonical(envelope.payload))


def open_fields(envelope: Envelope) -> object:
    """Verify the signature, and only then parse the payload, to plain data.

    For who keeps records of kinds it does not know, as a rendezvous does. Raises
    RemoteProtocolError or SignatureInvalid.
    """
    _check_signature(envelope)
    return decode_canonical(envelope.payload)


def check_time(record: TimedRecord, now_s: float) -> None:
    """Raise RecordExpired unless the record holds at `now_s` (unix seconds)."""
    if now_s >= record.expires_at_s:
        raise RecordExpired(f"The {record.DOMAIN} expired {now_s - record.expires_at_s:.0f} s ago.")
    if now_s < record.issued_at_s - RECORD_CLOCK_SKEW_S:
        raise RecordExpired(
            f"The {record.DOMAIN} begins {record.issued_at_s - now_s:.0f} s from now.",
            hint="Check this machine's clock.",
        )


def _check_signature(envelope: Envelope) -> None:
    verify(
        envelope.signer.public_key,
        _signed_bytes(envelope.domain, envelope.payload),
        envelope.signature,
    )


def _sliced(data: bytes) -> Envelope | None:
    """An envelope whose bytes are those of its only encoding; None to parse it the long way.

    Taken apart by comparison: what does not lie exactly where it belongs is left to the parser.
    """
    at = len(_DOMAIN)
    if type(data) is not bytes or not at < len(data) <= RECORD_BYTES_MAX:
        return None
    if not data.startswith(_DOMAIN) or data[at] not in _SHORT_TEXT:
        return None
    signer_at = at + 1 + data[at] - _SHORT_TEXT.start
    domain = data[at + 1 : signer_at]
    payload_at = signer_at + len(_SIGNER) + PUBLIC_KEY_BYTES
    end = len(data) - SIGNATURE_BYTES
    payload_end = end - len(_SIGNATURE)
    if (
        payload_end <= payload_at + len(_PAYLOAD)
        or not domain.isascii()
        or not data.startswith(_SIGNER, signer_at)
        or not data.startswith(_PAYLOAD, payload_at)
        or not data.startswith(_SIGNATURE, payload_end)
    ):
        return None
    payload = byte_string(data, payload_at + len(_PAYLOAD), payload_end)
    if payload is None:
        return None
    signer = PeerId(data[signer_at + len(_SIGNER) : payload_at])
    return Envelope(domain.decode("ascii"), payload, signer, data[end:])


def _signed_bytes(domain: str, payload: bytes) -> bytes:
    return domain.encode() + b"\0" + payload
