"""`piecework limits`, `pause` and `resume`: what the household allows, also while a node runs."""

import json
import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from node.cli.options import home_path
from node.cli.program import fail, tell
from node.config import parse_bytes
from node.errors import ConfigInvalid
from node.household.hours import parse_hours, text_of
from node.household.limits import Limits, as_object, load_limits, save_limits
from node.household.policy import PAUSED_FOR_GOOD
from protocol.errors import PieceworkError
from transport.congestion.share import RATE_MIN_BYTES_S

__all__ = ["LimitTexts", "pause_node", "resume_node", "set_limits"]

_UNITS_S = {"m": 60, "h": 3600, "d": 86_400}
_NOTHING = ("", "none", "off")
"""What takes a limit away."""


@dataclass(frozen=True, slots=True)
class LimitTexts:
    """Options as they were given; None: leave it as it is."""

    hours: str | None = None
    data_cap: str | None = None
    upload: str | None = None
    pause_while_busy: bool | None = None
    floor_prefill: int | None = None
    floor_decode: int | None = None


def set_limits(texts: LimitTexts, *, home: Path | None, as_json: bool) -> None:
    """Change what was named, then print all of it; a running node follows within seconds."""
    try:
        path = home_path(home)
        before = load_limits(path)
        limits = _changed(before, texts)
        if limits != before:
            save_limits(path, limits)
    except PieceworkError as error:
        fail(error)
    if as_json:
        sys.stdout.write(json.dumps({"schema": 1, **as_object(limits)}) + "\n")
    else:
        Console().print(_table(limits))


def pause_node(duration: str, *, home: Path | None) -> None:
    """No new work for a while, or until `resume`. Answers under way end in peace."""
    try:
        path = home_path(home)
        until_s = int(time.time()) + _seconds(duration) if duration else PAUSED_FOR_GOOD
        save_limits(path, replace(load_limits(path), paused_until_s=until_s))
    except PieceworkError as error:
        fail(error)
    tell(f"paused for {duration}" if duration else "paused; 'piecework resume' ends it")


def resume_node(*, home: Path | None) -> None:
    """Take work again, as far as the other limits allow."""
    try:
        path = home_path(home)
        save_limits(path, replace(load_limits(path), paused_until_s=0))
    except PieceworkError as error:
        fail(error)
    tell("taking work again, within the limits")


def _changed(limits: Limits, texts: LimitTexts) -> Limits:
    if texts.hours is not None:
        text = "" if texts.hours.lower() in _NOTHING else texts.hours
        limits = replace(limits, hours=parse_hours(text))
    if texts.data_cap is not None:
        limits = replace(limits, data_cap_bytes=_bytes(texts.data_cap))
    if texts.upload is not None:
        limits = replace(limits, upload_bytes_s=_rate(texts.upload))
    if texts.pause_while_busy is not None:
        limits = replace(limits, pause_while_busy=texts.pause_while_busy)
    if texts.floor_prefill is not None:
        limits = replace(limits, floor_prefill_nanos=texts.floor_prefill)
    if texts.floor_decode is not None:
        limits = replace(limits, floor_decode_nanos=texts.floor_decode)
    return limits


def _bytes(text: str) -> int:
    return 0 if text.lower() in _NOTHING else parse_bytes(text)


def _rate(text: str) -> int:
    """`8M`, `500k`: bits a second, as lines are sold; gives bytes a second."""
    if text.lower() in _NOTHING:
        return 0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg])?(?:bit(?:/s)?)?", text.strip().lower())
    if match is None:
        raise ConfigInvalid(f"'{text[:40]}' is no upload rate.", hint="Write 8M for 8 Mbit/s.")
    factor = {None: 1, "k": 10**3, "m": 10**6, "g": 10**9}[match[2]]
    rate = int(float(match[1]) * factor) // 8
    if rate < RATE_MIN_BYTES_S:
        raise ConfigInvalid(
            f"{text} is too little to work with.",
            hint=f"Give at least {RATE_MIN_BYTES_S * 8 // 1000}k, or pause.",
        )
    return rate


def _seconds(text: str) -> int:
    match = re.fullmatch(r"(\d{1,4})([mhd])", text.strip().lower())
    if match is None or not int(match[1]):
        raise ConfigInvalid(f"'{text[:40]}' is no length of time.", hint="Write 30m, 2h or 1d.")
    return int(match[1]) * _UNITS_S[match[2]]


def _table(limits: Limits) -> Table:
    table = Table.grid(padding=(0, 2))
    upload = f"{limits.upload_bytes_s * 8 / 1e6:g} Mbit/s" if limits.upload_bytes_s else ""
    cap = f"{limits.data_cap_bytes / 2**30:g} GiB a month" if limits.data_cap_bytes else ""
    table.add_row("hours", text_of(limits.hours) or "always")
    table.add_row("data cap", cap or "none")
    table.add_row("upload", upload or "what the line carries")
    table.add_row("while in use", "no new work" if limits.pause_while_busy else "works on")
    floors = (limits.floor_prefill_nanos, limits.floor_decode_nanos)
    shown = f"{floors[0]:,} / {floors[1]:,} nanos per million token-layers"
    table.add_row("floor price", shown if any(floors) else "none")
    if limits.paused_until_s > time.time():
        good = limits.paused_until_s >= PAUSED_FOR_GOOD
        until = time.strftime("%a %H:%M", time.localtime(limits.paused_until_s)) if not good else ""
        table.add_row("[yellow]paused[/]", "until resumed" if good else f"until {until}")
    return table
