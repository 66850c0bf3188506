"""Carry one circuit's bytes between its two streams, within limits and without reading them.

One buffer a direction: what the receiver does not take is not read from the sender, so a slow
reader slows its sender and nobody else. A limit ends both streams with a reset; nothing is ever
written into what they carry.
"""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from relay.calling import EarlyBytes
from relay.resources import CircuitLimits, ForwarderLimits
from relay.usage import DropReason, PeerUsage
from transport.control.base import ControlStream
from transport.errors import TransportError

__all__ = ["Carrier", "CircuitEnd", "End"]


class CircuitEnd(StrEnum):
    """Why a circuit ended; the values are labels in metrics, a limit's being its name."""

    FINISHED = "finished"
    """Both ends said that no more follows."""
    BROKEN = "broken"
    """An end reset its stream or is gone."""
    BYTES = "circuits.circuit_bytes_max"
    DURATION = "circuits.circuit_duration_s"
    IDLE = "circuits.circuit_idle_s"
    MONTH = "forwarder.month_bytes_max"


@dataclass(frozen=True, slots=True)
class End:
    """One end of a circuit."""

    stream: ControlStream
    usage: PeerUsage


class _UsedUp(Exception):
    def __init__(self, end: CircuitEnd) -> None:
        self.end = end


@dataclass(slots=True)
class _Moved:
    """What one circuit has carried, both ways."""

    size_bytes: int = 0


class Carrier:
    """One per program. A circuit's bytes count against its caller, as the forwarder's do."""

    def __init__(self, limits: CircuitLimits, rates: ForwarderLimits) -> None:
        self.bytes_carried = 0
        """Both ways, of all circuits."""
        self.ends: Counter[CircuitEnd] = Counter()
        self._limits = limits
        self._bytes_per_s = rates.bytes_per_s_max

    async def carry(self, caller: End, called: End, early: EarlyBytes | None = None) -> CircuitEnd:
        """Until both directions are finished, or one breaks, or a limit is reached.

        `early`: what the caller has sent already.
        """
        moved = _Moved()
        tasks = [
            asyncio.create_task(self._carry_one_way(source, target, caller.usage, moved, first))
            for source, target, first in ((caller, called, early), (called, caller, None))
        ]
        end = CircuitEnd.BROKEN
        try:
            end = await self._wait_end(tasks, moved)
            return end
        finally:
            self.ends[end] += 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if end is not CircuitEnd.FINISHED:
                await asyncio.gather(caller.stream.reset(), called.stream.reset())

    async def _wait_end(self, tasks: list[asyncio.Task[None]], moved: _Moved) -> CircuitEnd:
        until = time.monotonic() + self._limits.circuit_duration_s
        while True:
            before, left_s = moved.size_bytes, until - time.monotonic()
            done, pending = await asyncio.wait(
                tasks,
                timeout=min(self._limits.circuit_idle_s, left_s),
                return_when=asyncio.FIRST_EXCEPTION,
            )
            if (end := _end_of(done)) is not None:
                return end
            if not pending:
                return CircuitEnd.FINISHED
            if time.monotonic() >= until:
                return CircuitEnd.DURATION
            if moved.size_bytes == before:
                return CircuitEnd.IDLE

    async def _carry_one_way(
        self,
        source: End,
        target: End,
        payer: PeerUsage,
        moved: _Moved,
        early: EarlyBytes | None,
    ) -> None:
        left_bytes, buffer_bytes = self._limits.circuit_bytes_max, self._limits.circuit_buffer_bytes
        data = b""
        if early is not None:
            left_bytes -= len(early.data)
            self._count(source, target, moved, len(early.data))
            data = early.unpaid
        while data or (data := await source.stream.read(min(left_bytes, buffer_bytes) or 1)):
            size = len(data)
            if size > left_bytes:
                raise _UsedUp(CircuitEnd.BYTES)
            left_bytes -= size
            await self._pay(payer, size)
            await target.stream.write(data)
            self._count(source, target, moved, size)
            data = b""
        await target.stream.finish()

    def _count(self, source: End, target: End, moved: _Moved, size: int) -> None:
        source.usage.bytes_from += size
        target.usage.bytes_to += size
        self.bytes_carried += size
        moved.size_bytes += size

    async def _pay(self, payer: PeerUsage, size_bytes: int) -> None:
        """Wait until the payer's allowance has room: a stream is slowed where a datagram drops."""
        while (reason := payer.charge(size_bytes, time.monotonic())) is not None:
            if reason is DropReason.MONTH_BYTES_MAX:
                raise _UsedUp(CircuitEnd.MONTH)
            await asyncio.sleep(size_bytes / self._bytes_per_s)


def _end_of(done: set[asyncio.Task[None]]) -> CircuitEnd | None:
    """What the first failure says; None where there is none. A bug of ours is raised."""
    for task in done:
        match task.exception():
            case None:
                continue
            case _UsedUp() as used_up:
                return used_up.end
            case TransportError():
                return CircuitEnd.BROKEN
            case error:
                raise error
    return None
