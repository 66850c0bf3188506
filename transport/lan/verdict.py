"""Which carrier is faster towards a peer: measured once per path, kept, and shown by `doctor`."""

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from time import perf_counter
from typing import Final

from protocol.errors import PieceworkError
from protocol.identity import PeerId
from transport.base import Stream

__all__ = [
    "ECHO_BYTES",
    "ECHO_PROTOCOL",
    "LanCarrierKind",
    "LanVerdict",
    "choose",
    "echo_round_trip_s",
    "serve_echo",
]

ECHO_PROTOCOL: Final = "/piecework/lan-echo/1"
"""Frames come back as they are; spoken over both carriers."""

ECHO_BYTES: Final = 16 * 1024
"""One decode step of a large model: hidden 8192 in bf16."""

_ECHOES_MAX: Final = 64
"""A peer measures a few times and finishes; more is somebody who wants our time."""

_QUIC_MUST_WIN_BY: Final = 1.1
"""At equal speed TCP is taken: it costs a tenth of the CPU."""


class LanCarrierKind(StrEnum):
    TCP = "tcp"
    QUIC = "quic"


@dataclass(frozen=True, slots=True)
class LanVerdict:
    """What streams to this peer travel on while its path is `path`, and why."""

    peer_id: PeerId
    path: str
    """The peer's address on the QUIC path that was measured against."""
    carrier: LanCarrierKind
    reason: str
    decided_at: float
    """Monotonic seconds."""
    tcp_echo_s: float | None = None
    quic_echo_s: float | None = None
    """16 KB there and back, the quickest; None where it was not measured or did not answer."""


def choose(tcp_echo_s: float | None, quic_echo_s: float | None) -> tuple[LanCarrierKind, str]:
    """The faster carrier, and the sentence that says so."""
    if tcp_echo_s is None:
        return LanCarrierKind.QUIC, "The echo over TCP did not come back."
    if quic_echo_s is None:
        return LanCarrierKind.TCP, "The echo over QUIC did not come back."
    tcp, quic = f"{1000 * tcp_echo_s:.2f} ms over TCP", f"{1000 * quic_echo_s:.2f} ms over QUIC"
    if quic_echo_s * _QUIC_MUST_WIN_BY < tcp_echo_s:
        return LanCarrierKind.QUIC, f"16 KB there and back: {quic}, {tcp}."
    return LanCarrierKind.TCP, f"16 KB there and back: {tcp}, {quic}."


async def echo_round_trip_s(stream: Stream, count: int, timeout_s: float) -> float | None:
    """The quickest of `count` echoes and one to warm up; None when they do not come back.

    Finishes the stream.
    """
    frame = bytes(ECHO_BYTES)
    times_s: list[float] = []
    try:
        async with asyncio.timeout(timeout_s):
            for _ in range(count + 1):
                began = perf_counter()
                await stream.send(frame)
                if await stream.receive() != frame:
                    return None
                times_s.append(perf_counter() - began)
    except (PieceworkError, TimeoutError):
        return None
    finally:
        stream.finish()
    return min(times_s[1:])


async def serve_echo(stream: Stream) -> None:
    """The handler of ECHO_PROTOCOL."""
    for _ in range(_ECHOES_MAX):
        frame = await stream.receive()
        if frame is None or len(frame) > ECHO_BYTES:
            return
        await stream.send(frame)
