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
from protocol.reach import ROUNDS_MAX, CircuitSide, Connect, Mapping
from transport.address import CircuitAddress, TcpAddress
from transport.control.base import ControlConnection, ControlHost
from transport.errors import Attempt, DialFailed, PeerGone, TimedOut
from transport.paths.probing import Probing
from transport.quic.connection import QuicConnection
from transport.quic.seams import CloseCode
from transport.reach.reach_link import ReachLink
from transport.reach.relays import Circuit, Relays
from transport.reach.signalling import Signalling
from transport.reach.tunnel import TUNNEL_PROTOCOL
from transport.reach.whereabouts import Whereabouts
from transport.udp.udp_socket import SocketAddress

__all__ = ["ReachInitiator"]

TUNNEL_AFTER_S: Final = 1.5
"""No path has answered for so long after CONNECT: UDP may be blocked without our knowing."""

TUNNEL_TIMEOUT_S: Final = 4.0
"""To open one, by way of the relay."""

TUNNEL_ALIVE_S: Final = 3.0
"""A tunnel that brought something so lately proves that the connection below it lives."""

RETRY_S: Final = (0.3, 0.6, 1.2, 2.5, 5.0)
"""After a round that failed, while the link lives: a rebooting router is back within seconds."""

ROUND_GAP_S: Final = 0.2
"""Between any two rounds, whoever asks for them."""

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
        """`circuits`: the peer's relayed addresses, best first. Raises LocalProtocolError when
        the host has too many links."""
        self._udp = probing.endpoint.udp
        self._relays = relays
        self._whereabouts = whereabouts
        self._peer_id = peer_id
        self._link_id, self._key = os.urandom(LINK_BYTES), os.urandom(DATAGRAM_KEY_BYTES)
        self._round = 0
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._signalling = Signalling(control, peer_id, circuits, self._on_heard)
        self._circuit: Circuit | None = None
        self._sides: tuple[CircuitSide, ...] = ()
        """The peer's, of our circuit."""
        self._first_round: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.reach = ReachLink(
            probing, self._link_id, self._key, peer_id,
            is_initiator=True, on_want_signal=self._on_want_signal,
        )  # fmt: skip

    @property
    def connection(self) -> ControlConnection | None:
        """The one by which we signal; it stays when the link is over, for others to this peer."""
        return self._signalling.connection

    async def run(self) -> None:
        """Signal whenever it is wanted, until the link is over; then free everything."""
        try:
            await self.reach.while_alive(self._signal_for_ever())
        finally:
            await self._close()

    async def connect(self, timeout_s: float) -> QuicConnection:
        """The QUIC connection over the first path that answers. Raises DialFailed."""
        connecting = asyncio.create_task(self.reach.link.connect(timeout_s))
        try:
            both: set[asyncio.Future[Any]] = {connecting, self._first_round}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                self._first_round.result()
            return await connecting
        except BaseException:
            connecting.cancel()
            made = (await asyncio.gather(connecting, return_exceptions=True))[0]
            if isinstance(made, QuicConnection):  # in the same turn in which it was called off
                made.close_now(CloseCode.NOT_NEEDED, "not wanted any more")
            raise

    # Rounds

    async def _signal_for_ever(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await self._signal_until_heard()
            await asyncio.sleep(ROUND_GAP_S)

    async def _signal_until_heard(self) -> None:
        for pause_s in (*RETRY_S, 0.0):
            began = monotonic()
            try:
                await self._signal()
            except PieceworkError as error:
                log.info("signalling with %s failed: %s", self._peer_id.short, error)
                is_alive = self.reach.is_tunnel_heard(TUNNEL_ALIVE_S)
                await self._signalling.drop(keep_connection=is_alive)
                if not self._first_round.done():
                    # A connection of before may have died without a word: once more, dialled anew.
                    if pause_s == RETRY_S[0] and isinstance(error, (TimedOut, PeerGone)):
                        continue
                    self._fail(error, monotonic() - began)
                    return
                self._relays.check()
                self.reach.rebind()
                await asyncio.sleep(pause_s)
            else:
                return

    async def _signal(self) -> None:
        """One round: dial if need be, exchange candidates, punch together."""
        await self._get_ready()
        link, whereabouts = self.reach.link, self._whereabouts
        candidates, hints = whereabouts.candidates(), whereabouts.hints
        self._round = (self._round + 1) % ROUNDS_MAX
        own = Connect(self._round, self._link_id, self._key, hints, candidates, self._sides)
        began = monotonic()
        theirs = await self._signalling.exchange(own)
        round_trip_s = monotonic() - began
        await self._signalling.sync()
        start_at = monotonic() + round_trip_s / 2
        link.punch(candidates, theirs.candidates, hints, theirs.hints, start_at)
        if not self._first_round.done():
            self._first_round.set_result(None)
        await self._tunnel_if_needed(hints.mapping, theirs.hints.mapping)

    async def _get_ready(self) -> None:
        """The stream, and meanwhile what its first message shall tell. Raises DialFailed."""
        relay = self._signalling.addresses[0].relay
        preparing = asyncio.create_task(self._prepare(relay))
        try:
            await self._signalling.open()
            await preparing
        finally:
            preparing.cancel()
            await asyncio.gather(preparing, return_exceptions=True)
        worked = self._signalling.addresses[0].relay
        if worked != relay and not self._has_circuit:
            await self._prepare(worked)

    @property
    def _has_circuit(self) -> bool:
        return self._circuit is not None and not self._circuit.is_ended

    async def _prepare(self, relay: TcpAddress) -> None:
        """A UDP circuit at the relay, and our address as its reflector sees it."""
        if not self._has_circuit:
            try:
                await self._allocate(relay)
            except PieceworkError as error:
                # Punching and the tunnel are left.
                log.info("no UDP circuit to %s: %s", self._peer_id.short, error)
        await self._whereabouts.measure(self._reflectors())

    async def _allocate(self, relay: TcpAddress) -> None:
        timeout_s = self._signalling.timeout_s
        circuit = await self._relays.allocate(relay, self._peer_id, timeout_s=timeout_s)
        older, self._circuit, self._sides = self._circuit, circuit, ()
        if older is not None:
            await older.close()
        grant, port = circuit.grant, circuit.grant.ports[0]
        ours = CircuitSide(circuit.host, port, grant.circuit, 0, grant.secret_ours)
        self.reach.use_circuits([ours])
        self._sides = (CircuitSide(circuit.host, port, grant.circuit, 1, grant.secret_theirs),)

    def _reflectors(self) -> list[SocketAddress]:
        circuit = self._circuit
        if circuit is None:
            return []
        found = (self._udp.to_socket_address(circuit.host, port) for port in circuit.grant.ports)
        return [address for address in found if address is not None]

    async def _tunnel_if_needed(self, own: Mapping, theirs: Mapping) -> None:
        """Open the tunnel where UDP is known to be blocked, or where no path answers for long."""
        reach = self.reach
        is_blocked = Mapping.BLOCKED in (own, theirs)
        if not is_blocked and reach.link.path is None:
            try:
                await reach.link.wait_path(TUNNEL_AFTER_S)
            except DialFailed:
                is_blocked = True
        if not is_blocked or reach.has_tunnel or self.connection is None:
            return
        try:
            stream = await self.connection.open_stream(TUNNEL_PROTOCOL, timeout_s=TUNNEL_TIMEOUT_S)
            reach.add_tunnel(stream, opening=self._link_id)
        except PieceworkError as error:
            log.info("no tunnel to %s: %s", self._peer_id.short, error)

    # What happens meanwhile

    def _on_heard(self, is_asked: bool) -> None:
        self.reach.link.on_signal_alive(monotonic())
        if is_asked:
            self._wanted.set()

    def _on_want_signal(self, reason: str) -> None:
        log.info("%s: %s", self._peer_id.short, reason)
        self.reach.rebind()
        self._whereabouts.network_changed()
        self._wanted.set()

    def _fail(self, error: PieceworkError, elapsed_s: float) -> None:
        """The dial came to nothing; whoever waits for it is told every attempt."""
        if not isinstance(error, DialFailed):
            address = str(self._signalling.addresses[0])
            error = DialFailed(str(self._peer_id), (Attempt(address, str(error), elapsed_s),))
        self._first_round.set_exception(error)
        self._first_round.exception()  # seen here, in case nobody waits

    async def _close(self) -> None:
        await self._signalling.drop(keep_connection=True)
        await self.reach.close()
        if self._circuit is not None:
            await self._circuit.close()
        if not self._first_round.done():
            self._fail(PeerGone(self.reach.link.over_reason), 0.0)
