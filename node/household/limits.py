"""What a household has set, as a value and as the file `limits.json` in the node's home.

The file is written whole and moved into place, so a running node that reads it again sees either
what was or what is.
"""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from node.errors import ConfigInvalid
from node.household.hours import Hours, parse_hours, text_of
from protocol.errors import RemoteProtocolError
from protocol.money import Rates

__all__ = ["LIMITS_FILE", "Limits", "load_limits", "save_limits", "with_floor"]

LIMITS_FILE = "limits.json"
_FILE_BYTES_MAX = 64 * 1024
_NUMBERS_MAX = 2**62


@dataclass(frozen=True, slots=True)
class Limits:
    """Everything a household may set. The default allows all there is."""

    hours: tuple[Hours, ...] = ()
    """When work is taken, in local time; none: always."""
    data_cap_bytes: int = 0
    """Up and down together, in a calendar month; 0: no cap."""
    upload_bytes_s: int = 0
    """Of the uplink; 0: what the line carries."""
    pause_while_busy: bool = False
    """No new work while the machine's owner uses it."""
    floor_prefill_nanos: int = 0
    """Per million token-layers: nothing is offered below."""
    floor_decode_nanos: int = 0
    """Per million token-layers: nothing is offered below."""
    paused_until_s: int = 0
    """Unix seconds; 0: not paused by hand; PAUSED_FOR_GOOD until somebody resumes."""


def load_limits(home: Path) -> Limits:
    """Raises ConfigInvalid for a file that is damaged; without one nothing is limited."""
    path = home / LIMITS_FILE
    try:
        text = path.read_text()
    except FileNotFoundError:
        return Limits()
    try:
        if len(text) > _FILE_BYTES_MAX:
            raise ValueError("it is too long")
        return _from_object(json.loads(text))
    except (ValueError, TypeError) as error:
        raise ConfigInvalid(
            f"The limits in {path} are damaged: {error}.", hint="Set them again, or remove it."
        ) from error


def save_limits(home: Path, limits: Limits) -> None:
    """Write the file whole; a running node follows within seconds."""
    path = home / LIMITS_FILE
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(as_object(limits), indent=2) + "\n")
    temporary.replace(path)


def as_object(limits: Limits) -> dict[str, object]:
    """As the file has it."""
    values = {field.name: getattr(limits, field.name) for field in fields(Limits)}
    return values | {"hours": text_of(limits.hours)}


def with_floor(rates: Rates, limits: Limits) -> Rates:
    """What is offered: what the owner asks, and never below the floor. Raises ConfigInvalid."""
    try:
        return replace(
            rates,
            prefill_nanos_per_million_token_layers=max(
                rates.prefill_nanos_per_million_token_layers, limits.floor_prefill_nanos
            ),
            decode_nanos_per_million_token_layers=max(
                rates.decode_nanos_per_million_token_layers, limits.floor_decode_nanos
            ),
        )
    except RemoteProtocolError as error:
        raise ConfigInvalid(error.message, hint="Lower the floor.") from error


def _from_object(data: Any) -> Limits:
    known = {field.name for field in fields(Limits)}
    if not isinstance(data, dict):
        raise ValueError("it is no object")
    if unknown := set(data) - known:
        raise ValueError(f"there is no setting '{min(unknown)[:40]}'")
    values = dict(data)
    values["hours"] = parse_hours(str(data.get("hours", "")))
    for name, value in values.items():
        if name == "pause_while_busy":
            if not isinstance(value, bool):
                raise ValueError(f"'{name}' is true or false")
        elif name != "hours" and (type(value) is not int or not 0 <= value <= _NUMBERS_MAX):
            raise ValueError(f"'{name}' is a whole number of at least 0")
    return Limits(**values)
