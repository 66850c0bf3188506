"""What a reader of JSON relies on, said as a value, so that a stranger's answer can be held to it.

    HOP = {"peer_id": is_text, "span": {"start": is_whole, "end": is_whole}, "addresses": [is_text]}
    misfit({"peer_id": "12D3…", "span": {"start": 0}, "addresses": []}, HOP) == ".span.end"

Fields that nobody relies on are passed over: a newer marketplace may say more.
"""

import base64
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

__all__ = [
    "Shape",
    "is_base64",
    "is_flag",
    "is_hex",
    "is_number",
    "is_text",
    "is_whole",
    "misfit",
]

Shape: TypeAlias = Mapping[str, Any] | list[Any] | tuple[Any, None] | Callable[[object], bool]
"""An object with at least these fields; `[each]`, a list of them; `(that, None)`, that or null; or
a question that the value answers with yes. What is Any here is a shape again."""

_ABSENT: Final = object()


def misfit(value: object, shape: Shape) -> str | None:
    """Where `value` has another shape, as `.hops[3].span`; None: nowhere."""
    match shape:
        case Mapping():
            if not isinstance(value, dict):
                return ""
            parts = ((f".{name}", value.get(name, _ABSENT), inner) for name, inner in shape.items())
        case list():
            if not isinstance(value, list):
                return ""
            parts = ((f"[{index}]", item, shape[0]) for index, item in enumerate(value))
        case tuple():
            return None if value is None else misfit(value, shape[0])
        case _:
            return None if shape(value) else ""
    for name, part, inner in parts:
        if (place := misfit(part, inner)) is not None:
            return name + place
    return None


def is_text(value: object) -> bool:
    """A string."""
    return isinstance(value, str)


def is_whole(value: object) -> bool:
    """An integer; `true` is none."""
    return type(value) is int


def is_number(value: object) -> bool:
    """Finite, as a time must be that somebody waits."""
    return type(value) is int or (isinstance(value, float) and math.isfinite(value))


def is_flag(value: object) -> bool:
    """True or false."""
    return isinstance(value, bool)


def is_hex(value: object) -> bool:
    """What `bytes.fromhex` takes."""
    try:
        return isinstance(value, str) and len(bytes.fromhex(value)) >= 0
    except ValueError:
        return False


def is_base64(value: object) -> bool:
    """What `base64.b64decode` takes, however strict."""
    try:
        return isinstance(value, str) and len(base64.b64decode(value, validate=True)) >= 0
    except ValueError:
        return False
