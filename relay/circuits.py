"""The hop of circuit relay v2: slots for peers behind NATs, and byte streams to them.

Source: libp2p specs, relay/circuit-v2.md. A stream is a request: RESERVE, or CONNECT and then the
circuit's bytes. Every circuit stands alone: nothing that happens to one touches another.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.relay_messages import RefusalCode
from relay.calling import Calls, EarlyBytes
from relay.carrying import Carrier, End
from relay.errors import RequestRefused
from relay.requests import RequestGate
from relay.reservations import CircuitCounts, Reservations, network_of
from relay.resources import CircuitLimits
from relay.usage import PeerUsage, UsageTable
from transport.control.base import ControlConnection, ControlHost, ControlStream
from transport.control.circuit_messages import (
    CircuitLimit,
    HopMessage,
    HopType,
    RelayReservation,
    Status,
    StopMessage,
    StopType,
    read_message,
    write_message,
)
from transport.errors import TransportError

__all__ = ["CircuitService"]

log = logging.getLogger(__name__)


class CircuitService:
    """Made by the composition root, which sets `serve` as the handler of HOP_PROTOCOL."""

    def __init__(
        self,
        host: ControlHost,
        limits: CircuitLimits,
        gate: RequestGate,
        carrier: Carrier,
        usage: UsageTable,
        addresses: Callable[[], tuple[bytes, ...]],
    ) -> None:
        """`addresses`: the relay's own, as binary multiaddrs, for those who reserve."""
        self.reservations = Reservations(limits)
        self.circuits = CircuitCounts(limits)
        self._host = host
        self._limits = limits
        self._gate = gate
        self._carrier = carrier
        self._usage = usage
        self._addresses = addresses
        self._calls = Calls(limits)
        self._watches: dict[ControlConnection, asyncio.Task[None]] = {}

    async def serve(self, stream: ControlStream) -> None:
        """Answer one request; returns when its circuit, if it got one, is over."""
        try:
            self._gate.admit(stream.peer_id)
            with self._gate.pending(stream.peer_id):
                message = await read_message(
                    stream, HopMessage, timeout_s=self._limits.handshake_timeout_s
                )
            if message.type is HopType.RESERVE:
                await self._answer(stream, self._reserve(stream))
            else:
                await self._connect(stream, message)
        except RequestRefused as refused:
            self._gate.refused(refused)
            await self._answer(stream, HopMessage(HopType.STATUS, status=refused.code))
        except RemoteProtocolError as error:
            self._gate.malformed(error)
            await self._answer(stream, HopMessage(HopType.STATUS, status=Status.MALFORMED_MESSAGE))
        except TransportError as error:
            log.debug("a circuit stream ended: %s", error)
            await stream.reset()

    async def close(self) -> None:
        """Stop watching connections; the circuits end with their streams."""
        watches = tuple(self._watches.values())
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)

    # --- reserve

    def _reserve(self, stream: ControlStream) -> HopMessage:
        """The granted slot. Raises RequestRefused."""
        connection = self._connection_of(stream)
        if connection is None:
            _refuse_relayed()
        before = self.reservations.find(stream.peer_id, time.monotonic())
        self.reservations.reserve(connection, time.monotonic())
        if before is not None and before.connection is not connection:
            self._calls.on_newer(connection)
        if connection not in self._watches:
            self._watches[connection] = asyncio.create_task(self._release_when_closed(connection))
        expires_at_s = int(time.time()) + self._limits.reservation_duration_s
        return HopMessage(
            HopType.STATUS,
            status=Status.OK,
            reservation=RelayReservation(expires_at_s, self._addresses()),
            limit=self._limit,
        )

    def _connection_of(self, stream: ControlStream) -> ControlConnection | None:
        """The living direct connection that `stream` came on; None over a relay."""
        if stream.is_relayed:
            return None
        slot = self.reservations.find(stream.peer_id, time.monotonic())
        if slot is not None and slot.connection.remote == stream.remote:
            return slot.connection  # a renewal, as most are: thousands need not be looked through
        for connection in self._host.connections():
            if (connection.peer_id, connection.remote) == (stream.peer_id, stream.remote):
                return connection
        return None

    async def _release_when_closed(self, connection: ControlConnection) -> None:
        try:
            await connection.wait_closed()
        finally:
            del self._watches[connection]
            self.reservations.release(connection.peer_id, connection)

    # --- connect

    async def _connect(self, stream: ControlStream, message: HopMessage) -> None:
        """Call the other peer and carry the circuit. Raises RequestRefused before it is made."""
        if message.type is not HopType.CONNECT:
            raise RequestRefused(
                "unexpected_message",
                "A STATUS is the relay's to send.",
                RefusalCode.UNEXPECTED_MESSAGE,
            )
        if message.peer is None:
            raise RemoteProtocolError("A CONNECT names nobody.")
        if stream.is_relayed or message.peer == stream.peer_id:
            _refuse_relayed()
        slot = self.reservations.find(message.peer, time.monotonic())
        if slot is None:
            raise RequestRefused(
                "no_reservation",
                "A peer was called that has no reservation here.",
                RefusalCode.NO_RESERVATION,
            )
        caller, called = stream.peer_id, message.peer
        claim = self.circuits.claim(caller, called, network_of(stream.remote))
        with claim, self._used(caller, called) as (ours, theirs):
            early = EarlyBytes(stream, ours, self._limits.circuit_bytes_max)
            other = await self._call(slot.connection, caller, early)
            granted = HopMessage(HopType.STATUS, status=Status.OK, limit=self._limit)
            try:
                await self._write(stream, granted)
            except TransportError:
                await other.reset()
                raise
            await self._carrier.carry(End(stream, ours), End(other, theirs), early)

    @contextlib.contextmanager
    def _used(self, *peers: PeerId) -> Iterator[list[PeerUsage]]:
        """Their entries in the table of usage, which does not forget them meanwhile."""
        usages = [self._usage.of(peer, time.monotonic()) for peer in peers]
        for usage in usages:
            usage.circuits += 1
        try:
            yield usages
        finally:
            for usage in usages:
                usage.circuits -= 1

    async def _call(
        self, connection: ControlConnection, caller: PeerId, early: EarlyBytes
    ) -> ControlStream:
        """A stream on which the called peer has accepted. Raises RequestRefused."""
        message = StopMessage(StopType.CONNECT, peer=caller, limit=self._limit)
        early.start()
        try:
            return await self._calls.call(connection, message, early)
        except (TransportError, RemoteProtocolError, TimeoutError) as error:
            log.debug("a called peer did not accept: %s", error)
            raise RequestRefused(
                "connection_failed",
                "A called peer did not accept the circuit.",
                RefusalCode.CONNECTION_FAILED,
            ) from error
        finally:
            await early.stop()

    # --- answers

    @property
    def _limit(self) -> CircuitLimit:
        return CircuitLimit(self._limits.circuit_duration_s, self._limits.circuit_bytes_max)

    async def _answer(self, stream: ControlStream, message: HopMessage) -> None:
        """Send it and end the stream; a peer that does not take it is given up."""
        try:
            await self._write(stream, message)
            await stream.close()
        except TransportError:
            await stream.reset()

    async def _write(self, stream: ControlStream, message: HopMessage) -> None:
        """Raises TransportError, also where the peer does not read."""
        try:
            async with asyncio.timeout(self._limits.handshake_timeout_s):
                await write_message(stream, message)
        except TimeoutError:
            raise TransportError("The peer does not read its answer.") from None


def _refuse_relayed() -> NoReturn:
    raise RequestRefused(
        "permission_denied",
        "Slots and circuits are for peers that are connected directly, and not to themselves.",
        RefusalCode.PERMISSION_DENIED,
    )
