"""Reaching peers that cannot be dialled: signalling by their relay, circuits, punching, tunnels."""

import asyncio
import logging
from collections.abc import Sequence

from protocol.errors import LocalProtocolError
from protocol.identity import PeerId
from transport.address import CircuitAddress
from transport.control.base import ControlConnection, ControlHost
from transport.errors import Attempt, DialFailed
from transport.paths.probing import Probing
from transport.quic.connection import QuicConnection
from transport.reach.initiator import ReachInitiator
from transport.reach.messages import REACH_PROTOCOL
from transport.reach.reach_link import ReachLink
from transport.reach.relays import Relays
from transport.reach.responder import ReachResponder
from transport.reach.tunnel import TUNNEL_PROTOCOL
from transport.reach.whereabouts import Whereabouts

__all__ = ["Reacher"]

log = logging.getLogger(__name__)


class Reacher:
    """Owned by the home host, beside its control plane."""

    def __init__(
        self, control: ControlHost, relays: Relays, probing: Probing, whereabouts: Whereabouts
    ) -> None:
        self._control = control
        self._relays = relays
        self._probing = probing
        self._whereabouts = whereabouts
        self._initiators: dict[ReachInitiator, asyncio.Task[None]] = {}
        self._is_closed = False
        self._connections: dict[PeerId, ControlConnection] = {}
        """By which an initiator signalled whose link is over, while others to the peer are not."""
        self._responder = ReachResponder(probing, whereabouts, relays.check, self._hang_up)
        control.set_handler(REACH_PROTOCOL, self._responder.serve)
        control.set_handler(TUNNEL_PROTOCOL, self._responder.serve_tunnel)

    @property
    def links(self) -> tuple[ReachLink, ...]:
        """Those under way and in use, for status pages."""
        return (*(each.reach for each in self._initiators), *self._responder.links)

    async def reach(
        self, peer_id: PeerId, circuits: Sequence[CircuitAddress], timeout_s: float
    ) -> QuicConnection:
        """A verified connection, relayed at first where it must be. Raises DialFailed."""
        if self._is_closed:
            raise _failed(peer_id, "this host was closed")
        try:
            initiator = ReachInitiator(
                self._control, self._relays, self._probing, self._whereabouts, peer_id, circuits
            )
        except LocalProtocolError as error:
            raise _failed(peer_id, error.message) from error
        task = asyncio.create_task(self._run(initiator, peer_id))
        self._initiators[initiator] = task
        try:
            return await initiator.connect(timeout_s)
        except BaseException:
            initiator.reach.link.close()
            raise

    def network_changed(self) -> None:
        """Addresses of ours changed: every link checks its paths."""
        for reach in self.links:
            reach.link.network_changed()

    async def close(self) -> None:
        self._is_closed = True
        for protocol in (REACH_PROTOCOL, TUNNEL_PROTOCOL):
            self._control.set_handler(protocol, None)
        for initiator in tuple(self._initiators):
            initiator.reach.link.close()
        await asyncio.gather(*self._initiators.values())
        await self._responder.close()

    async def _run(self, initiator: ReachInitiator, peer_id: PeerId) -> None:
        try:
            await initiator.run()
        except Exception:
            log.exception("signalling with %s broke", peer_id.short)
        finally:
            del self._initiators[initiator]
        if initiator.connection is not None:
            self._connections[peer_id] = initiator.connection
            await self._hang_up(peer_id)

    async def _hang_up(self, peer_id: PeerId) -> None:
        """A link is over. Relays lend few circuits, so the last one to a peer gives his back."""
        if all(reach.link.peer_id != peer_id for reach in self.links):
            connection = self._connections.pop(peer_id, None)
            if connection is not None:
                await connection.close()


def _failed(peer_id: PeerId, reason: str) -> DialFailed:
    return DialFailed(str(peer_id), (Attempt("signalling", reason, 0.0),))
