"""How bytes, keys and numbers look in the marketplace's JSON: shared field types.

Ids, hashes and keys are lowercase hex, envelopes standard base64, peers their PeerId text, times
unix seconds. Strict: a number in quotes or a field nobody knows is refused.
"""

import base64
import binascii
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)

from protocol.errors import PieceworkError
from protocol.identity import PeerId
from protocol.money import Rates, Work
from protocol.route import Span

__all__ = [
    "AMOUNT_NANOS_MAX",
    "Base64Bytes",
    "HexHash",
    "HexId",
    "Name",
    "PeerText",
    "Printable",
    "RatesSchema",
    "Schema",
    "SpanSchema",
    "WorkSchema",
    "parse_hex",
]

BASE64_CHARACTERS_MAX = 48 * 1024
"""A record has at most 32 KiB, which is 43 691 characters."""
NAME_CHARACTERS_MAX = 128


class Schema(BaseModel):
    """One JSON object; nothing unknown in it is passed over."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def parse_hex(value: object, size_bytes: int) -> bytes:
    """`size_bytes` from lowercase hex; raises ValueError."""
    if isinstance(value, bytes) and len(value) == size_bytes:
        return value
    if not isinstance(value, str) or len(value) != 2 * size_bytes or value != value.lower():
        raise ValueError(f"must be {2 * size_bytes} lowercase hex digits")
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise ValueError(f"must be {2 * size_bytes} lowercase hex digits") from None


def _hex_of(size_bytes: int) -> Callable[[object], bytes]:
    return lambda value: parse_hex(value, size_bytes)


def _parse_base64(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or len(value) > BASE64_CHARACTERS_MAX:
        raise ValueError(f"must be base64 of at most {BASE64_CHARACTERS_MAX} characters")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not standard base64") from None


def _parse_peer(value: object) -> PeerId:
    if isinstance(value, PeerId):
        return value
    if not isinstance(value, str):
        raise ValueError("must be a PeerId")
    try:
        return PeerId.from_text(value)
    except PieceworkError as error:
        raise ValueError(str(error)) from None


def _check_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be printable")
    return text


def _text(pattern: str = "") -> Any:
    return WithJsonSchema({"type": "string", **({"pattern": pattern} if pattern else {})})


HexId = Annotated[
    bytes, PlainValidator(_hex_of(16)), PlainSerializer(bytes.hex), _text("^[0-9a-f]{32}$")
]
"""16 bytes: a quote, session, lease, hold or top-up."""
HexHash = Annotated[
    bytes, PlainValidator(_hex_of(32)), PlainSerializer(bytes.hex), _text("^[0-9a-f]{64}$")
]
"""32 bytes: a SHA-256 or an Ed25519 key."""
Base64Bytes = Annotated[
    bytes,
    PlainValidator(_parse_base64),
    PlainSerializer(lambda data: base64.b64encode(data).decode()),
    _text(),
]
PeerText = Annotated[PeerId, PlainValidator(_parse_peer), PlainSerializer(str), _text()]
Printable = Annotated[str, AfterValidator(_check_printable)]
"""Text for people; without control characters, which PostgreSQL and terminals do not take."""
Name = Annotated[Printable, Field(min_length=1, max_length=NAME_CHARACTERS_MAX)]
AMOUNT_NANOS_MAX = 2**60
"""The ledger takes no larger amount."""


class SpanSchema(Schema):
    """Half-open range of layers."""

    start: int
    end: int

    @classmethod
    def of(cls, span: Span) -> "SpanSchema":
        return cls(start=span.start, end=span.end)


class RatesSchema(Schema):
    """Nanos per million token-layers, and per MiB of activations sent."""

    prefill_nanos_per_million_token_layers: int
    decode_nanos_per_million_token_layers: int
    activation_nanos_per_mib: int

    @classmethod
    def of(cls, rates: Rates) -> "RatesSchema":
        return cls(
            prefill_nanos_per_million_token_layers=rates.prefill_nanos_per_million_token_layers,
            decode_nanos_per_million_token_layers=rates.decode_nanos_per_million_token_layers,
            activation_nanos_per_mib=rates.activation_nanos_per_mib,
        )


class WorkSchema(Schema):
    """Counts of work; bytes are activation payloads."""

    prefill_token_layers: int
    decode_token_layers: int
    bytes_in: int
    bytes_out: int

    @classmethod
    def of(cls, work: Work) -> "WorkSchema":
        return cls(
            prefill_token_layers=work.prefill_token_layers,
            decode_token_layers=work.decode_token_layers,
            bytes_in=work.bytes_in,
            bytes_out=work.bytes_out,
        )
