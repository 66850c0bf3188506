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
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import cbor2

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import PeerId
from protocol.limits import RECORD_BYTES_MAX, RECORD_DEPTH_MAX

__all__ = [
    "byte_string",
    "decode_canonical",
    "decode_fields",
    "encode_canonical",
    "encode_fields",
]

T = TypeVar("T")
INTEGER_MAX = 2**63 - 1
"""Every integer of a record fits a BIGINT column."""

_AS_IT_IS = frozenset((int, str, bytes, bool))
"""Types that stand in a record as they are; an enum is of none of these exactly."""


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
    plain: dict[str, object] = {}
    for name in _field_names(typing.cast("Any", type(value))):
        item = getattr(value, name)
        if type(item) in _AS_IT_IS:
            plain[name] = item
        elif item is not None:
            plain[name] = _plain(item)
    return plain


def byte_string(data: bytes, start: int, end: int) -> bytes | None:
    """The byte string whose canonical encoding is `data[start:end]`; None if that is none.

    For records of few fields, whose bytes are known but for those: a comparison, not a parse.
    """
    size = end - start
    if 3 + 2**8 <= size < 3 + 2**16:
        head = b"\x59" + (size - 3).to_bytes(2, "big")
    elif 2 + 24 <= size < 2 + 2**8:
        head = bytes((0x58, size - 2))
    elif 1 <= size < 1 + 24:
        head = bytes((0x40 + size - 1,))
    else:
        return None
    return data[start + len(head) : end] if data.startswith(head, start) else None


def decode_fields(kind: type[T], data: object) -> T:
    """Build `kind` from a stranger's map: every field checked for its type, unknown ones refused.

    The dataclass's own `__post_init__` checks ranges and raises RemoteProtocolError.
    """
    if not isinstance(data, dict):
        raise RemoteProtocolError(f"{kind.__name__} must be a map.")
    decoders = _decoders(typing.cast("Any", kind))
    if not data.keys() <= decoders.keys():
        unknown = data.keys() - decoders.keys()
        raise RemoteProtocolError(
            f"{kind.__name__} has unknown fields: {sorted(map(str, unknown))[:4]}."
        )
    if None in data.values():
        raise RemoteProtocolError(f"{kind.__name__}: what is absent is left out, not null.")
    get = data.get
    return kind(**{name: decode(get(name)) for name, decode in decoders.items()})


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
def _field_names(kind: Any) -> tuple[str, ...]:
    if not dataclasses.is_dataclass(kind):
        raise LocalProtocolError(f"{kind.__name__} is not a record.")
    return tuple(field.name for field in dataclasses.fields(kind))


@functools.cache
def _decoders(kind: Any) -> dict[str, Callable[[object], object]]:
    """What each field is read by: types are looked at once a kind, not once a record."""
    names = _field_names(kind)
    hints = typing.get_type_hints(kind)
    return {name: _decoder(hints[name], f"{kind.__name__}.{name}") for name in names}


def _decoder(hint: Any, where: str) -> Callable[[object], object]:
    """`_typed` for this field, with a short way for what a record mostly holds."""

    def integer(value: object) -> object:
        if type(value) is int and -INTEGER_MAX <= value <= INTEGER_MAX:
            return value
        return _typed(hint, value, where)

    def as_it_is(value: object) -> object:
        return value if type(value) is hint else _typed(hint, value, where)

    def peer(value: object) -> object:
        return PeerId(value) if type(value) is bytes else _typed(hint, value, where)

    def record(value: object) -> object:
        return decode_fields(hint, value) if type(value) is dict else _typed(hint, value, where)

    if hint is int:
        return integer
    if hint in (str, bytes, bool):
        return as_it_is
    if hint is PeerId:
        return peer
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return record
    return functools.partial(_typed_as, hint, where)


def _typed_as(hint: Any, where: str, value: object) -> object:
    return _typed(hint, value, where)


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
