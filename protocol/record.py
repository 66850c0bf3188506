"""Canonical CBOR for frozen dataclasses: what is signed has exactly one encoding.

RFC 8949 section 4.2.1 (core deterministic encoding): shortest forms, sorted keys, no tags, no
floats, no indefinite lengths. Decoding re-encodes and compares, so a second spelling of the same
record is refused rather than verified. Supported field types: int, str, bytes, bool, PeerId,
StrEnum, IntEnum, nested dataclass, tuple[T, ...] and `T | None`.
"""

import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import cbor2

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import PeerId
from protocol.limits import RECORD_BYTES_MAX, RECORD_DEPTH_MAX

__all__ = ["decode_canonical", "decode_fields", "encode_canonical", "encode_fields"]

T = TypeVar("T")
INTEGER_MAX = 2**63 - 1
"""Every integer of a record fits a BIGINT column."""


def encode_canonical(value: object) -> bytes:
    """The one canonical encoding of plain data (maps, lists, int, str, bytes, bool, None)."""
    return cbor2.dumps(value, canonical=True)


def decode_canonical(data: bytes, *, size_max: int = RECORD_BYTES_MAX) -> object:
    """Parse a stranger's bytes to plain data; raises RemoteProtocolError for anything else."""
    if len(data) > size_max:
        raise RemoteProtocolError(f"A record of {len(data)} bytes is above {size_max}.")
    try:
        value = cbor2.loads(
            data,
            semantic_decoders=_NO_TAGS,
            tag_hook=_refuse_tag,
            max_depth=RECORD_DEPTH_MAX,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
        if cbor2.dumps(value, canonical=True) != data:
            raise RemoteProtocolError("The record is not in canonical form.")
    except RemoteProtocolError:
        raise
    except Exception as error:  # a parser of strangers' bytes: every failure is theirs
        raise RemoteProtocolError(f"The record is not valid CBOR: {error}") from error
    return value


def encode_fields(value: object) -> dict[str, object]:
    """A frozen dataclass as a map of plain data, one entry a field; None fields are left out."""
    if not dataclasses.is_dataclass(value):
        raise LocalProtocolError(f"{type(value).__name__} is not a record.")
    return {
        field.name: _plain(getattr(value, field.name))
        for field in dataclasses.fields(value)
        if getattr(value, field.name) is not None
    }


def decode_fields(kind: type[T], data: object) -> T:
    """Build `kind` from a stranger's map: every field checked for its type, unknown ones refused.

    The dataclass's own `__post_init__` checks ranges and raises RemoteProtocolError.
    """
    if not isinstance(data, dict):
        raise RemoteProtocolError(f"{kind.__name__} must be a map.")
    fields = _field_types(typing.cast("Any", kind))
    unknown = set(data) - set(fields)
    if unknown:
        raise RemoteProtocolError(
            f"{kind.__name__} has unknown fields: {sorted(map(str, unknown))[:4]}."
        )
    if None in data.values():
        raise RemoteProtocolError(f"{kind.__name__}: what is absent is left out, not null.")
    values = {
        name: _typed(hint, data.get(name), f"{kind.__name__}.{name}")
        for name, hint in fields.items()
    }
    return kind(**values)


def _refuse_tag(*_: object) -> typing.NoReturn:
    raise RemoteProtocolError("Tags have no place in a record.")


# cbor2 has built-in decoders for these tags; some of them (regex, MIME) do real work.
_TAGS = (0, 1, 2, 3, 4, 5, 28, 29, 30, 35, 36, 37, 52, 54, 100, 258, 260, 261, 1004, 43000, 55799)
_NO_TAGS: Mapping[int, Any] = dict.fromkeys(_TAGS, _refuse_tag)


def _plain(value: object) -> object:
    match value:
        case PeerId():
            return value.public_key
        case bool() | bytes() | None:
            return value
        case enum.Enum():
            return value.value
        case int() | str():
            return value
        case tuple():
            return [_plain(item) for item in value]
        case _ if dataclasses.is_dataclass(value):
            return encode_fields(value)
    raise LocalProtocolError(f"A {type(value).__name__} cannot stand in a record.")


@functools.cache
def _field_types(kind: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(kind):
        raise LocalProtocolError(f"{kind.__name__} is not a record.")
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _typed(hint: Any, value: object, where: str) -> object:
    """`value` as `hint`, or RemoteProtocolError naming the field."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        (hint,) = (option for option in typing.get_args(hint) if option is not types.NoneType)
        return _typed(hint, value, where)
    if value is None:
        raise RemoteProtocolError(f"{where} is missing.")
    if origin is tuple:
        if not isinstance(value, list):
            raise RemoteProtocolError(f"{where} must be a list.")
        item = typing.get_args(hint)[0]
        return tuple(_typed(item, element, where) for element in value)
    if hint is not PeerId and dataclasses.is_dataclass(hint):
        return decode_fields(typing.cast("type[Any]", hint), value)
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: object, where: str) -> object:
    """One number, text, byte string, choice or PeerId."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if hint is PeerId and isinstance(value, bytes):
        return PeerId(value)
    if hint is int and is_integer:
        if not -INTEGER_MAX <= typing.cast("int", value) <= INTEGER_MAX:
            raise RemoteProtocolError(f"{where} does not fit 64 bits.")
        return value
    if hint in (str, bytes, bool) and isinstance(value, hint):
        return value
    if isinstance(hint, enum.EnumType) and (is_integer or isinstance(value, str)):
        try:
            return hint(value)
        except ValueError:
            raise RemoteProtocolError(f"{where} has no such value.") from None
    raise RemoteProtocolError(f"{where} has the wrong type.")
