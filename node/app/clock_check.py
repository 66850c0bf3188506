"""Is this machine's clock right? Signed records carry times, and are refused when it is not."""

import asyncio
import ctypes
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

import httpx

from protocol.limits import RECORD_CLOCK_SKEW_S
from transport.diagnosis.finding import Finding, Level
from transport.diagnosis.network_findings import RelayReport

__all__ = [
    "ClockReading",
    "clock_finding",
    "read_market_clock",
    "relay_clocks",
    "system_synchronizes",
]

MARKET_TIMEOUT_S: Final = 5.0
WHOLE_TIMEOUT_S: Final = 15.0
"""Connecting and waiting, and as long again for headers that come byte by byte."""

SKEW_GOOD_S: Final = 10.0
"""HTTP dates have whole seconds, and a busy server may be a few late."""

RELAY_SLOT_S: Final = 3600
"""A relay's slot lasts an hour unless its operator chose otherwise: a hint, not a proof."""

_FIX: Final = "Let the system keep the time (Linux: timedatectl set-ntp true)."
_TIME_ERROR: Final = 5
_TIMEX_BYTES: Final = 256
"""struct timex has 208 bytes (adjtimex(2)); zeros ask and change nothing."""


@dataclass(frozen=True, slots=True)
class ClockReading:
    """By how much this machine is ahead of somebody else's clock."""

    source: str
    ahead_s: float
    is_sure: bool


async def read_market_clock(url: str) -> ClockReading | None:
    """From the Date of any answer; None when there is none. Half the round trip is allowed for."""
    try:
        async with (
            asyncio.timeout(WHOLE_TIMEOUT_S),
            httpx.AsyncClient(timeout=MARKET_TIMEOUT_S, trust_env=False) as client,
        ):
            began = time.time()
            # only the headers are read: whose body it is nobody has proven
            async with client.stream("GET", f"{url.rstrip('/')}/v1/market") as answer:
                ended = time.time()
                told = parsedate_to_datetime(answer.headers["date"]).timestamp() + 0.5
    except (
        httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError, TypeError, OverflowError,
        TimeoutError,
    ):  # fmt: skip
        return None
    return ClockReading("the marketplace", (began + ended) / 2 - told, is_sure=True)


def relay_clocks(reports: Sequence[RelayReport]) -> list[ClockReading]:
    """From when slots expire by the relays' clocks."""
    return [
        ClockReading(
            f"the relay at {report.relay.host}",
            report.answered_at_s - (report.expires_at_s - RELAY_SLOT_S),
            is_sure=False,
        )
        for report in reports
        if report.expires_at_s
    ]


def system_synchronizes() -> bool | None:
    """Whether the kernel's clock is kept by NTP or the like; None where it does not tell."""
    if sys.platform != "linux":
        return None
    state = int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    return None if state < 0 else state != _TIME_ERROR


def clock_finding(readings: Sequence[ClockReading], synchronizes: bool | None) -> Finding:
    """The surest reading decides; without any, what the system says of itself."""
    if not readings:
        if synchronizes:
            return Finding("clock", Level.OK, "The system says that it keeps the time by network.")
        text = "Nobody was there to compare the clock with, and the system does not keep it."
        if synchronizes is None:
            text = "Nobody was there to compare the clock with."
        return Finding("clock", Level.WARN, text, _FIX)
    reading = max(readings, key=lambda each: (each.is_sure, -abs(each.ahead_s)))
    seconds = abs(reading.ahead_s)
    if seconds <= SKEW_GOOD_S:
        return Finding("clock", Level.OK, f"The clock agrees with that of {reading.source}.")
    direction = "ahead of" if reading.ahead_s > 0 else "behind"
    text = f"The clock is {seconds:,.0f} s {direction} {reading.source}."
    if not reading.is_sure:
        text = f"The clock seems {seconds:,.0f} s {direction} {reading.source}."
        return Finding("clock", Level.WARN, text, _FIX)
    level = Level.FAIL if seconds > RECORD_CLOCK_SKEW_S else Level.WARN
    return Finding("clock", level, text, _FIX)
