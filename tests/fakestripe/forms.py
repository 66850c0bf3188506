"""Stripe's form encoding, `a[b][0]=c`, as nested values; every leaf is text."""

from typing import Any
from urllib.parse import parse_qsl

from tests.fakestripe.errors import invalid

__all__ = ["integer", "parse_form", "required", "truth"]

FIELDS_MAX = 1000
NESTING_MAX = 8


def parse_form(text: str) -> dict[str, Any]:
    """Nested dictionaries; a level whose keys are 0, 1, 2 … is a list."""
    root: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX):
        path = [part.rstrip("]") for part in name.split("[")]
        if len(path) > NESTING_MAX:
            raise invalid("Too deep.", param=name)
        place = root
        for index, part in enumerate(path[:-1]):
            key = part if part or not index else str(len(place))
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise invalid("A field and a group have one name.", param=name)
        last = path[-1] if path[-1] or len(path) == 1 else str(len(place))
        place[last] = value
    return {key: _listed(value) for key, value in root.items()}


def _listed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {key: _listed(item) for key, item in value.items()}
    if inner and all(key.isdecimal() for key in inner):
        return [inner[key] for key in sorted(inner, key=int)]
    return inner


def required(params: dict[str, Any], name: str) -> Any:
    """The parameter, or Stripe's words for its absence."""
    if name not in params or params[name] == "":
        raise invalid(f"Missing required param: {name}.", code="parameter_missing", param=name)
    return params[name]


def integer(value: Any, name: str, *, minimum: int = 0) -> int:
    """A whole number of at least `minimum`."""
    if not str(value).lstrip("-").isdecimal() or int(value) < minimum:
        raise invalid(f"Invalid integer: {value}", code="parameter_invalid_integer", param=name)
    return int(value)


def truth(value: Any) -> bool:
    """Stripe's booleans as text."""
    return value in (True, "true")
