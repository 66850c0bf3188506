"""Reading records of plain shape straight from their canonical bytes: no map between, no encoding.

For the few kinds that come by thousands a second. Keys, order and heads are compared with those of
the record's only encoding; what differs anywhere is None, and the parser of `protocol/record.py`
says what is wrong with it. So nothing is accepted here that it would refuse.
"""

import dataclasses
import functools
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import cbor2

from protocol.limits import RECORD_BYTES_MAX

__all__ = ["read_record"]

T = TypeVar("T")
_Read = Callable[[bytes, int], tuple[Any, int]]
"""(data, where) -> the value there, and where the next begins. Raises _Otherwise or IndexError."""

_IN_HEAD = 24
"""RFC 8949 section 3: what is less stands in the head itself."""
_INTEGER_SIZES = {0x18: (1, 24), 0x19: (2, 2**8), 0x1A: (4, 2**16), 0x1B: (8, 2**32)}
"""By head: bytes that follow, and the least number that needs as many."""
_INTEGER_MAX = 2**63 - 1
_FALSE, _TRUE = 0xF4, 0xF5
_MAP = 0xA0
_SHORT_BYTES = 0x40
_BYTES = 0x58
_FIELDS_MAX = 23
"""So that a map's head is one byte."""


class _Otherwise(Exception):
    """The bytes are not those of this record in canonical form, or hold what is not read here."""


def read_record(kind: type[T], data: bytes) -> T | None:
    """`data` as a record of int, bytes, bool and nested fields; None to parse it the long way.

    Raises what the record's own `__post_init__` raises.
    """
    read = _reader(typing.cast("Any", kind))
    if read is None or type(data) is not bytes or len(data) > RECORD_BYTES_MAX:
        return None
    try:
        value, end = read(data, 0)
    except (_Otherwise, IndexError):
        return None
    return typing.cast("T", value) if end == len(data) else None


@functools.cache
def _reader(kind: Any) -> _Read | None:
    """None for a kind that has fields of other types."""
    if not dataclasses.is_dataclass(kind):
        return None
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    readers: dict[str, _Read] = {}
    for name in names:
        reader = _SIMPLE.get(hints[name]) or _reader(hints[name])
        if reader is None or len(names) > _FIELDS_MAX:
            return None
        readers[name] = reader
    # canonical order: a shorter key first
    names.sort(key=lambda name: (len(name), name))
    steps = [(name, cbor2.dumps(name, canonical=True), readers[name]) for name in names]
    head, make = _MAP + len(names), typing.cast("Any", kind)

    def read(data: bytes, at: int) -> tuple[Any, int]:
        if data[at] != head:
            raise _Otherwise
        at += 1
        values: dict[str, Any] = {}
        for name, key, read_field in steps:
            if not data.startswith(key, at):
                raise _Otherwise
            values[name], at = read_field(data, at + len(key))
        return make(**values), at

    return read


def _integer(data: bytes, at: int) -> tuple[int, int]:
    head = data[at]
    if head < _IN_HEAD:
        return head, at + 1
    if head not in _INTEGER_SIZES:
        raise _Otherwise
    size, least = _INTEGER_SIZES[head]
    end = at + 1 + size
    value = int.from_bytes(data[at + 1 : end], "big")
    if not least <= value <= _INTEGER_MAX or end > len(data):
        raise _Otherwise
    return value, end


def _short_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    """At most 255: ids, keys and hashes."""
    size = data[at] - _SHORT_BYTES
    start = at + 1
    if size == _BYTES - _SHORT_BYTES:
        size = data[start]
        start += 1
        if size < _IN_HEAD:
            raise _Otherwise
    elif not 0 <= size < _IN_HEAD:
        raise _Otherwise
    end = start + size
    if end > len(data):
        raise _Otherwise
    return data[start:end], end


def _boolean(data: bytes, at: int) -> tuple[bool, int]:
    if data[at] not in (_FALSE, _TRUE):
        raise _Otherwise
    return data[at] == _TRUE, at + 1


_SIMPLE: dict[Any, _Read] = {int: _integer, bytes: _short_bytes, bool: _boolean}
