"""How fast this line is: a short burst through a relay's forwarder and back to ourselves.

We hold both sides of a circuit, so what goes up comes down again, and the slower way shows: at
home that is up. The rate doubles until datagrams come back more slowly than they were sent; how
fast they then come is the bottleneck's rate, also where a long queue hides the losses.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from protocol.datagram import (
    COOKIE_BYTES,
    FORWARDED_HEADER_BYTES,
    Bind,
    Bound,
    DatagramType,
    is_genuine,
)
from protocol.errors import RemoteProtocolError
from protocol.relay_messages import ForwardGrant
from transport.errors import TimedOut
from transport.paths.forwarder_client import COOKIES_TAKEN_MAX
from transport.udp.udp_socket import enlarge_buffers, open_udp

__all__ = ["Bandwidth", "Burst", "is_saturated", "measure_bandwidth"]

FIRST_MBIT_PER_S: Final = 4.0
LAST_MBIT_PER_S: Final = 128.0
"""Above nearly every uplink at home, and below what one process can send and count. All bursts
together are then under 7 MB and 2.5 s."""

BURST_S: Final = 0.2
"""Ten times what a scheduler may delay us, and a tenth of what a person notices."""

DATAGRAM_BYTES: Final = 1200
"""Passes every path that QUIC passes (RFC 9000, section 14)."""

QUIET_S: Final = 0.4
"""A burst is over when nothing has come for so long: a round trip, and a jittery radio's pause."""

BURST_TIMEOUT_S: Final = 3.0
"""For what a full queue of two seconds still holds."""

SLOWDOWN: Final = 1.25
"""Coming back so much longer than being sent, a burst has met the bottleneck."""

LOSS: Final = 0.1
"""So much lost, too: where queues are short."""

BIND_RETRY_S: Final = (0.3, 0.6, 1.2)
BUFFER_BYTES: Final = 4 * 1024 * 1024
TICK_S: Final = 0.002


@dataclass(frozen=True, slots=True)
class Burst:
    """One rate tried. `received_s` is from the first to the last datagram that came back."""

    sent_bytes: int
    sent_s: float
    received_bytes: int
    received_s: float

    @property
    def received_mbit_per_s(self) -> float:
        return self.received_bytes * 8 / max(self.received_s, BURST_S / 2) / 1e6


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """`is_limit` False: the line is faster than what was tried."""

    mbit_per_s: float
    is_limit: bool
    loss: float
    """Of the fastest burst below the limit."""


def is_saturated(burst: Burst) -> bool:
    """Whether the burst came back more slowly, or with more holes, than an idle line would do."""
    if burst.received_bytes < burst.sent_bytes * (1 - LOSS):
        return True
    return burst.received_s > burst.sent_s * SLOWDOWN


async def measure_bandwidth(
    relay_host: str, grant: ForwardGrant, *, clock: Callable[[], float] = time.perf_counter
) -> Bandwidth:
    """Takes up to 8 s. Raises TimedOut if the forwarder does not answer, or nothing comes back."""
    address = (relay_host, grant.ports[0])
    near, far = _Side(grant, 0, address, clock), _Side(grant, 1, address, clock)
    try:
        for side in (near, far):
            await side.open()
        loss, rate = 0.0, FIRST_MBIT_PER_S
        while True:
            burst = await _try(near, far, rate)
            if not burst.received_bytes:
                raise TimedOut("The relay's forwarder took datagrams and returned none.")
            if is_saturated(burst):
                return Bandwidth(burst.received_mbit_per_s, True, loss)
            loss = 1 - burst.received_bytes / burst.sent_bytes
            if rate >= LAST_MBIT_PER_S:
                return Bandwidth(burst.received_mbit_per_s, False, loss)
            rate *= 2
    finally:
        near.close()
        far.close()


async def _try(near: "_Side", far: "_Side", mbit_per_s: float) -> Burst:
    far.forget()
    sent_bytes, sent_s = await near.send_at(mbit_per_s * 1e6 / 8)
    await far.wait_quiet(sent_bytes)
    return Burst(sent_bytes, sent_s, far.received_bytes, far.received_s)


class _Side(asyncio.DatagramProtocol):
    """One side of the circuit, with a socket of its own."""

    def __init__(
        self,
        grant: ForwardGrant,
        side: int,
        address: tuple[str, int],
        clock: Callable[[], float],
    ) -> None:
        self._secret = (grant.secret_ours, grant.secret_theirs)[side]
        self._circuit, self._side = grant.circuit, side
        self._address, self._clock = address, clock
        self._counter = self._cookies_taken = 0
        self._cookie = bytes(COOKIE_BYTES)
        self._bound = asyncio.Event()
        self._transport: asyncio.DatagramTransport | None = None
        self.forget()

    def forget(self) -> None:
        self.received_bytes = 0
        self._first = self._last = 0.0

    @property
    def received_s(self) -> float:
        return self._last - self._first

    async def open(self) -> None:
        """Bind this side. Raises TimedOut."""
        opened = open_udp(":" in self._address[0])
        enlarge_buffers(opened, BUFFER_BYTES)
        loop = asyncio.get_running_loop()
        try:
            opened.connect(self._address)
            self._transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=opened)
        except OSError as error:
            opened.close()
            raise TimedOut(f"No way to the relay's forwarder: {error}") from error
        for wait_s in BIND_RETRY_S:
            self._send_bind(self._transport)
            try:
                await asyncio.wait_for(self._bound.wait(), wait_s)
            except TimeoutError:
                continue
            return
        if self._cookies_taken:
            raise TimedOut("The relay's forwarder answers over UDP, but does not bind us.")
        raise TimedOut("The relay's forwarder does not answer over UDP.")

    def _send_bind(self, transport: asyncio.DatagramTransport) -> None:
        self._counter += 1
        bind = Bind(self._circuit, self._side, self._counter, self._cookie)
        transport.sendto(bind.encode(self._secret))

    async def send_at(self, bytes_per_s: float) -> tuple[int, float]:
        """One burst, evenly spread: its bytes, and how long it took."""
        if self._transport is None:
            return 0, 0.0
        head = bytes([DatagramType.FORWARDED]) + self._circuit
        datagram = head.ljust(DATAGRAM_BYTES, b"\0")
        count = max(2, int(bytes_per_s * BURST_S / DATAGRAM_BYTES))
        began, sent = self._clock(), 0
        while sent < count:
            due = min(count, 1 + int((self._clock() - began) * bytes_per_s / DATAGRAM_BYTES))
            for _ in range(due - sent):
                self._transport.sendto(datagram)
            sent = due
            await asyncio.sleep(TICK_S)
        return count * DATAGRAM_BYTES, max(self._clock() - began, BURST_S)

    async def wait_quiet(self, bytes_expected: int) -> None:
        """Until all is here, nothing has come for a while, or the time is over."""
        deadline = self._clock() + BURST_TIMEOUT_S
        heard = max(self._last, self._clock())
        while self.received_bytes < bytes_expected and self._clock() < deadline:
            heard = max(heard, self._last)
            if self._clock() - heard > QUIET_S:
                return
            await asyncio.sleep(TICK_S)

    def datagram_received(self, data: bytes, addr: object) -> None:
        if data[:1] == bytes([DatagramType.FORWARDED]):
            if data[1:FORWARDED_HEADER_BYTES] == self._circuit:
                self._last = self._clock()
                self._first = self._first or self._last
                self.received_bytes += len(data)
            return
        if data[:1] != bytes([DatagramType.BOUND]):
            return
        try:
            bound = Bound.decode(data)
        except RemoteProtocolError:
            return
        if bound.circuit == self._circuit and is_genuine(data, self._secret):
            self._take_bound(bound)

    def _take_bound(self, bound: Bound) -> None:
        if bound.is_bound:
            self._bound.set()
        elif (
            self._transport is not None
            and bound.cookie != self._cookie
            and self._cookies_taken < COOKIES_TAKEN_MAX
        ):
            self._cookie = bound.cookie
            self._cookies_taken += 1
            self._send_bind(self._transport)

    def error_received(self, exc: Exception) -> None:
        """An ICMP error: silence says the same, and later."""

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
