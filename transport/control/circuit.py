"""Circuit relay v2, the node's side: slots at relays, and connections through them.

Source: libp2p specs, relay/circuit-v2.md. Every circuit is a stream of its own on the connection to
its relay, with a Noise and yamux of its own on top; so circuits, to however many peers at however
many relays, know nothing of one another, and a relay sees only what is encrypted end to end.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from transport.address import CircuitAddress, TcpAddress
from transport.control.base import ControlConnection, ControlStream, Reservation
from transport.control.circuit_answer import check_granted
from transport.control.circuit_messages import (
    HOP_PROTOCOL,
    CircuitLimit,
    HopMessage,
    HopType,
    Status,
    StopMessage,
    StopType,
    read_message,
    write_message,
)
from transport.control.stream import LibP2pStream
from transport.errors import IdentityMismatch, PeerGone

if TYPE_CHECKING:
    from transport.control.link import Link

__all__ = ["CircuitClient", "CircuitHost"]

log = logging.getLogger(__name__)

T = TypeVar("T")

CLOSED_GRACE_S: Final = 0.05
"""What a stream of a connection that ends says may come this much before the end itself."""

STOP_TIMEOUT_S: Final = 10.0
"""A relay that opens a STOP stream says at once who calls."""


class CircuitHost(Protocol):
    """What the client needs of its host."""

    async def connect(self, address: TcpAddress, *, timeout_s: float) -> ControlConnection: ...

    async def accept_circuit(self, stream: LibP2pStream, relay: PeerId) -> "Link":
        """Answer Noise and yamux over a circuit. Raises TransportError or RemoteProtocolError."""
        ...

    async def call_by_circuit(
        self, stream: LibP2pStream, address: CircuitAddress, failure: str
    ) -> "Link":
        """The same as the caller, with the relay's answer to CONNECT still to come; also raises
        RelayRefused, whose text begins with `failure`."""
        ...


class CircuitClient:
    """Owned by a control host. Its callers bound how long it may take."""

    def __init__(self, peer_id: PeerId, host: CircuitHost) -> None:
        self._peer_id = peer_id
        self._host = host
        self._slots: dict[PeerId, float] = {}
        """By relay: the slot's monotonic end. By which of our connections it calls is its affair:
        a call may overtake the answer that moves the slot to a newer one."""

    async def reserve(self, relay: TcpAddress, *, timeout_s: float) -> Reservation:
        """Raises RelayRefused, DialFailed, another TransportError, or RemoteProtocolError."""

        async def ask(connection: ControlConnection) -> HopMessage:
            stream = await connection.open_stream(HOP_PROTOCOL, timeout_s=timeout_s)
            try:
                await write_message(stream, HopMessage(HopType.RESERVE))
                return await read_message(stream, HopMessage, timeout_s=timeout_s)
            finally:
                await stream.close()

        answer = await self._at(relay, ask, timeout_s)
        check_granted(answer, f"The relay {relay} gave no slot")
        if answer.reservation is None:
            raise RemoteProtocolError(f"The relay {relay} granted a slot without saying how long.")
        expires_at_s = answer.reservation.expires_at_s
        self._slots[relay.peer_id] = time.monotonic() + expires_at_s - time.time()
        limit = answer.limit or CircuitLimit()
        return Reservation(
            relay,
            CircuitAddress(relay, self._peer_id),
            expires_at_s,
            limit.data_bytes,
            limit.duration_s,
        )

    async def dial(self, address: CircuitAddress, *, timeout_s: float) -> "Link":
        """One round trip to the peer: CONNECT and the first message of Noise leave together.

        Raises as `reserve`, and IdentityMismatch.
        """

        async def call(connection: ControlConnection) -> "Link":
            stream = await connection.open_stream(HOP_PROTOCOL, timeout_s=timeout_s)
            try:
                await write_message(stream, HopMessage(HopType.CONNECT, peer=address.peer_id))
            except BaseException:
                await stream.reset()
                raise
            assert isinstance(stream, LibP2pStream), "the host makes no others"
            failure = f"The relay {address.relay} gave no circuit"
            return await self._host.call_by_circuit(stream, address, failure)

        return await self._at(address.relay, call, timeout_s)

    async def accept(self, stream: ControlStream) -> None:
        """The handler of STOP_PROTOCOL: a relay says that somebody calls."""
        message = await read_message(stream, StopMessage, timeout_s=STOP_TIMEOUT_S)
        status = self._why_refused(stream, message)
        await write_message(stream, StopMessage(StopType.STATUS, status=status))
        if status is not Status.OK:
            return
        assert isinstance(stream, LibP2pStream), "the host makes no others"
        link = await self._host.accept_circuit(stream, stream.peer_id)
        if link.peer_id != message.peer:
            # The relay named another: harmless, since Noise decides, but a lie all the same.
            log.warning("the relay %s names wrong callers", stream.peer_id.short)
            raise IdentityMismatch("The relay named another caller than the one who called.")

    async def _at(
        self, relay: TcpAddress, do: Callable[[ControlConnection], Awaitable[T]], timeout_s: float
    ) -> T:
        """Do that by our connection to `relay`; once more by a new one if it was a dead one."""
        connection = await self._host.connect(relay, timeout_s=timeout_s)
        try:
            return await do(connection)
        except (PeerGone, RemoteProtocolError):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSED_GRACE_S):
                    await connection.wait_closed()
            if not connection.is_closed:
                raise
        return await do(await self._host.connect(relay, timeout_s=timeout_s))

    def holds_slot(self, relay: PeerId) -> bool:
        return self._slots.get(relay, 0.0) > time.monotonic()

    def _why_refused(self, stream: ControlStream, message: StopMessage) -> Status:
        if message.type is not StopType.CONNECT:
            return Status.UNEXPECTED_MESSAGE
        if message.peer is None:
            return Status.MALFORMED_MESSAGE
        if stream.is_relayed or not self.holds_slot(stream.peer_id):
            return Status.PERMISSION_DENIED
        return Status.OK
