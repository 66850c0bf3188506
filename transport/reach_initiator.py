"""The dialling side of signalling: rounds of CONNECT and SYNC until the link is over.

A round begins when the link wants one (at first; when its paths fall silent; now and then while
only a relay works) or when the peer asks for one. Rounds run one at a time.
"""

import asyncio
import logging
import os
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

from protocol.datagram import DATAGRAM_KEY_BYTES, LINK_BYTES
from protocol.errors import PieceworkError
from protocol.identity import PeerId
from protocol.reach import CircuitSide, Connect, Mapping, Sync
from transport.address import CircuitAddress
from transport.control_base import ControlConnection, ControlHost, ControlStream
from transport.errors import Attempt, DialFailed, TransportError
from transport.probing import Probing
from transport.quic_connection import QuicConnection
from transport.reach_link import ReachLink
from transport.reach_messages import REACH_PROTOCOL, expect, receive, send
from transport.relays import Circuit, Relays
from transport.tunnel import TUNNEL_PROTOCOL
from transport.udp_socket import SocketAddress
from transport.whereabouts import Whereabouts

__all__ = ["ReachInitiator"]

SIGNAL_TIMEOUT_S: Final = 4.0
"""For each step by way of the relay: dial, stream, answer."""

AGAIN_TIMEOUT_S: Final = 1.5
"""The same when a path has died: what is slow then is mostly a connection that is dead as well."""

TUNNEL_AFTER_S: Final = 1.5
"""No path has answered for so long after CONNECT: UDP may be blocked without our knowing."""

RETRY_S: Final = (0.3, 0.6, 1.2, 2.5, 5.0)
"""After a round that failed, while the link lives: a rebooting router is back within seconds."""

log = logging.getLogger(__name__)


class ReachInitiator:
    """One link to one peer. Made for a dial; lives as long as the link."""

    def __init__(
        self,
        control: ControlHost,
        relays: Relays,
        probing: Probing,
        whereabouts: Whereabouts,
        peer_id: PeerId,
        circuits: Sequence[CircuitAddress],
    ) -> None:
        """`circuits`: the peer's relayed addresses, best first."""
        self._control = control
        self._udp = probing.endpoint.udp
        self._relays = relays
        self._whereabouts = whereabouts
        self._peer_id = peer_id
        self._addresses = tuple(circuits)
        self._link_id, self._key = os.urandom(LINK_BYTES), os.urandom(DATAGRAM_KEY_BYTES)
        self._round = 0
        self._timeout_s = SIGNAL_TIMEOUT_S
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._connection: ControlConnection | None = None
        self._stream: ControlStream | None = None
        self._listening: asyncio.Task[None] | None = None
        self._circuit: Circuit | None = None
        self._sides: tuple[CircuitSide, ...] = ()
        self._first_round: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.reach = ReachLink(
            probing, self._link_id, self._key, peer_id,
            is_initiator=True, on_want_signal=self._on_want_signal,
        )  # fmt: skip

    async def run(self) -> None:
        """Signal whenever it is wanted, until the link is over; then free everything."""
        over = asyncio.create_task(self.reach.over.wait())
        try:
            while not over.done():
                wanted = asyncio.create_task(self._wanted.wait())
                await asyncio.wait({over, wanted}, return_when=asyncio.FIRST_COMPLETED)
                wanted.cancel()
                if not over.done():
                    await self._signal_until_heard(over)
        finally:
            over.cancel()
            await self._close()

    async def connect(self, timeout_s: float) -> QuicConnection:
        """The QUIC connection over the first path that answers. Raises DialFailed."""
        began = monotonic()
        connecting = asyncio.create_task(self.reach.link.connect(timeout_s))
        try:
            both: set[asyncio.Future[Any]] = {connecting, self._first_round}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done() and (error := self._first_round.exception()) is not None:
                reason = str(error)
                attempt = Attempt(str(self._addresses[0]), reason, monotonic() - began)
                raise DialFailed(str(self._peer_id), (attempt,)) from error
            return await connecting
        finally:
            if not connecting.done():
                connecting.cancel()
                await asyncio.gather(connecting, return_exceptions=True)

    # One round

    async def _signal_until_heard(self, over: asyncio.Task[bool]) -> None:
        self._wanted.clear()
        for pause_s in (*RETRY_S, 0.0):
            try:
                await self._signal()
            except PieceworkError as error:
                log.info("signalling with %s failed: %s", self._peer_id.short, error)
                await self._drop_stream()
                self._timeout_s = AGAIN_TIMEOUT_S
                if not self._first_round.done():
                    self._first_round.set_exception(error)
                    self._first_round.exception()
                    return
                self._relays.check()
                self.reach.rebind()
                await asyncio.wait({over}, timeout=pause_s)
                if over.done():
                    return
            else:
                self._timeout_s = AGAIN_TIMEOUT_S
                if not self._first_round.done():
                    self._first_round.set_result(None)
                return

    async def _signal(self) -> None:
        """One round: dial if need be, exchange candidates, punch together."""
        preparing = asyncio.create_task(self._prepare(self._addresses[0]))
        try:
            stream = await self._open()
            await preparing
        finally:
            preparing.cancel()
        own = Connect(
            self._round,
            self._link_id,
            self._key,
            self._whereabouts.hints,
            self._whereabouts.candidates(),
            self._sides,
        )
        self._round += 1
        began = monotonic()
        await self._stop_listening()
        await send(stream, own)
        theirs = await self._answer(stream, own.round)
        round_trip_s = monotonic() - began
        link = self.reach.link
        link.on_signal_alive(monotonic())
        await send(stream, Sync(own.round))
        start_at = monotonic() + round_trip_s / 2
        link.punch(own.candidates, theirs.candidates, own.hints, theirs.hints, start_at)
        self._listening = asyncio.create_task(self._listen(stream))
        await self._tunnel_if_needed(own, theirs)

    async def _answer(self, stream: ControlStream, number: int) -> Connect:
        """The peer's CONNECT of this round; what it asked for before is overtaken by it."""
        while True:
            theirs = await expect(stream, Connect, timeout_s=self._timeout_s)
            if theirs.round == number:
                return theirs

    async def _open(self) -> ControlStream:
        """The signalling stream, old or new. Raises TransportError."""
        if self._stream is not None and self._connection is not None:
            if not self._connection.is_closed:
                return self._stream
            await self._drop_stream()
        attempts: list[Attempt] = []
        for address in self._addresses:
            began = monotonic()
            try:
                connection = await self._control.connect(address, timeout_s=self._timeout_s)
                self._stream = await connection.open_stream(
                    REACH_PROTOCOL, timeout_s=self._timeout_s
                )
            except DialFailed as error:
                attempts += error.attempts
            except TransportError as error:
                attempts.append(Attempt(str(address), error.message, monotonic() - began))
            else:
                self._connection = connection
                # The relay that worked is the first to be tried next time.
                self._addresses = (address, *(a for a in self._addresses if a != address))
                return self._stream
        raise DialFailed(str(self._peer_id), tuple(attempts))

    async def _prepare(self, by: CircuitAddress) -> None:
        """A UDP circuit at the relay, and our address as its reflector sees it."""
        if self._circuit is None:
            try:
                self._circuit = await self._relays.allocate(
                    by.relay, self._peer_id, timeout_s=self._timeout_s
                )
            except TransportError as error:
                # Punching and the tunnel are left.
                log.info("no UDP circuit to %s: %s", self._peer_id.short, error)
            else:
                self._use_circuit(self._circuit)
        reflectors = [] if self._circuit is None else self._reflectors(self._circuit)
        await self._whereabouts.measure(reflectors)

    def _use_circuit(self, circuit: Circuit) -> None:
        grant, reach = circuit.grant, self.reach
        reach.owned.push_async_callback(circuit.close)
        port = grant.ports[0]
        reach.add_circuit(CircuitSide(circuit.host, port, grant.circuit, 0, grant.secret_ours))
        self._sides = (CircuitSide(circuit.host, port, grant.circuit, 1, grant.secret_theirs),)

    def _reflectors(self, circuit: Circuit) -> list[SocketAddress]:
        found = (self._udp.to_socket_address(circuit.host, port) for port in circuit.grant.ports)
        return [address for address in found if address is not None]

    async def _tunnel_if_needed(self, own: Connect, theirs: Connect) -> None:
        """Open the tunnel where UDP is known to be blocked, or where no path answers for long."""
        reach = self.reach
        is_blocked = Mapping.BLOCKED in (own.hints.mapping, theirs.hints.mapping)
        if not is_blocked and reach.link.path is None:
            try:
                await reach.link.wait_path(TUNNEL_AFTER_S)
            except DialFailed:
                is_blocked = True
        if not is_blocked or reach.has_tunnel or self._connection is None:
            return
        stream = await self._connection.open_stream(TUNNEL_PROTOCOL, timeout_s=self._timeout_s)
        await stream.write(self._link_id)
        reach.add_tunnel(stream)

    # Between rounds

    async def _listen(self, stream: ControlStream) -> None:
        """A CONNECT of the peer's own asks for a round."""
        try:
            while True:
                if isinstance(await receive(stream), Connect):
                    self.reach.link.on_signal_alive(monotonic())
                    self._wanted.set()
        except PieceworkError as error:
            log.debug("the signalling stream to %s ended: %s", self._peer_id.short, error)
            if self._stream is stream:
                self._stream = None

    async def _stop_listening(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
            self._listening = None

    def _on_want_signal(self, reason: str) -> None:
        log.info("%s: %s", self._peer_id.short, reason)
        self.reach.rebind()
        self._whereabouts.network_changed()
        self._wanted.set()

    async def _drop_stream(self) -> None:
        await self._stop_listening()
        stream, self._stream = self._stream, None
        connection, self._connection = self._connection, None
        if stream is not None:
            await stream.reset()
        if connection is not None:
            await connection.close()

    async def _close(self) -> None:
        """The control connection stays: other links to this peer may use it."""
        await self._stop_listening()
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()
        await self.reach.close()
        if not self._first_round.done():
            reason = self.reach.link.over_reason
            attempt = Attempt(str(self._addresses[0]), reason, 0.0)
            self._first_round.set_exception(DialFailed(str(self._peer_id), (attempt,)))
            self._first_round.exception()  # seen here, in case nobody waits
