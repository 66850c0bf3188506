"""Call a peer that has a slot: STOP on its newest connection, with the caller's first bytes behind.

A caller need not wait for the relay's answer: what he sends behind CONNECT goes on behind STOP's
CONNECT, which the called peer reads to its last byte and no further. That saves him two round
trips. Until the peer has accepted it is little, and kept, since a call begins anew when the peer
turns up by a newer connection: a home router that rebooted leaves the old one dead for minutes.
"""

import asyncio
import logging
import time
from typing import Final

from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from relay.resources import CircuitLimits
from relay.usage import PeerUsage
from transport.control.base import ControlConnection, ControlStream
from transport.control.circuit_messages import (
    STOP_PROTOCOL,
    Status,
    StopMessage,
    StopType,
    read_message,
    write_message,
)
from transport.errors import TransportError

__all__ = ["EARLY_BYTES_MAX", "Calls", "EarlyBytes"]

EARLY_BYTES_MAX: Final = 4 * 1024
"""Before the called peer has accepted. The first message of a handshake has about 50 bytes."""

log = logging.getLogger(__name__)


class EarlyBytes:
    """What a caller sends behind CONNECT. `start` is called once, `stop` as often as you like."""

    def __init__(self, stream: ControlStream, payer: PeerUsage, bytes_max: int) -> None:
        self.data = b""
        """Read, paid for, and passed on."""
        self.unpaid = b""
        """Read, but above the payer's allowance: for whoever waits for that."""
        self._stream = stream
        self._payer = payer
        self._bytes_max = min(bytes_max, EARLY_BYTES_MAX)
        self._changed = asyncio.Event()
        self._is_over = False
        self._collecting: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._collecting = asyncio.create_task(self._collect())

    async def stop(self) -> None:
        """Nothing more is read here; what comes stays in the stream."""
        if self._collecting is not None:
            self._collecting.cancel()  # a cancelled read loses nothing
            await asyncio.gather(self._collecting, return_exceptions=True)
        self._is_over = True
        self._changed.set()

    async def pass_to(self, other: ControlStream) -> None:
        """All of it from the beginning, until it is over. Raises TransportError."""
        sent_bytes = 0
        while True:
            if more := self.data[sent_bytes:]:
                sent_bytes += len(more)
                await other.write(more)
            elif self._is_over:
                return
            else:
                await self._changed.wait()
                self._changed.clear()

    async def _collect(self) -> None:
        try:
            while (room := self._bytes_max - len(self.data)) > 0:
                if not (data := await self._stream.read(room)):
                    return
                if self._payer.charge(len(data), time.monotonic()) is not None:
                    self.unpaid = data
                    return
                self.data += data
                self._changed.set()
        except TransportError as error:  # whoever reads on hears of it again
            log.debug("a caller ended his stream: %s", error)


class Calls:
    """The calls under way. Owned by the circuit service."""

    def __init__(self, limits: CircuitLimits) -> None:
        self._timeout_s = limits.connect_timeout_s
        self._waiting: dict[PeerId, set[asyncio.Future[ControlConnection]]] = {}

    def on_newer(self, connection: ControlConnection) -> None:
        """Its peer is to be called by this one from now on, also where a call is under way."""
        for waiting in self._waiting.get(connection.peer_id, ()):
            if not waiting.done():
                waiting.set_result(connection)

    async def call(
        self, connection: ControlConnection, message: StopMessage, early: EarlyBytes
    ) -> ControlStream:
        """A stream on which the peer has accepted, with all early bytes on it.

        Raises TransportError, RemoteProtocolError or TimeoutError.
        """
        async with asyncio.timeout(self._timeout_s):
            while True:
                newer = self._expect_newer(connection.peer_id)
                attempt = asyncio.create_task(self._attempt(connection, message, early))
                try:
                    await asyncio.wait((attempt, newer), return_when=asyncio.FIRST_COMPLETED)
                    if attempt.done() and (attempt.exception() is None or not newer.done()):
                        return attempt.result()
                    connection = newer.result()
                finally:
                    self._forget(connection.peer_id, newer)
                    if not attempt.done():
                        attempt.cancel()
                        await asyncio.gather(attempt, return_exceptions=True)

    async def _attempt(
        self, connection: ControlConnection, message: StopMessage, early: EarlyBytes
    ) -> ControlStream:
        other = await connection.open_stream(STOP_PROTOCOL, timeout_s=self._timeout_s)
        passing: asyncio.Task[None] | None = None
        try:
            await write_message(other, message)
            passing = asyncio.create_task(early.pass_to(other))
            reply = await read_message(other, StopMessage, timeout_s=self._timeout_s)
            if reply.type is not StopType.STATUS or reply.status != Status.OK:
                raise RemoteProtocolError(f"The called peer answered with status {reply.status}.")
            await early.stop()
            await passing
        except BaseException:
            if passing is not None:
                passing.cancel()
                await asyncio.gather(passing, return_exceptions=True)
            await other.reset()
            raise
        return other

    def _expect_newer(self, peer: PeerId) -> "asyncio.Future[ControlConnection]":
        newer: asyncio.Future[ControlConnection] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(peer, set()).add(newer)
        return newer

    def _forget(self, peer: PeerId, newer: "asyncio.Future[ControlConnection]") -> None:
        waiting = self._waiting[peer]
        waiting.discard(newer)
        if not waiting:
            del self._waiting[peer]
