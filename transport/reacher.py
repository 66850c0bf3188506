"""Reaching peers that cannot be dialled: signalling by their relay, circuits, punching, tunnels."""

import asyncio
import logging
from collections.abc import Sequence

from protocol.identity import PeerId
from transport.address import CircuitAddress
from transport.control_base import ControlHost
from transport.probing import Probing
from transport.quic_connection import QuicConnection
from transport.reach_initiator import ReachInitiator
from transport.reach_link import ReachLink
from transport.reach_messages import REACH_PROTOCOL
from transport.reach_responder import ReachResponder
from transport.relays import Relays
from transport.tunnel import TUNNEL_PROTOCOL
from transport.whereabouts import Whereabouts

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
        self._responder = ReachResponder(probing, whereabouts, relays.check)
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
        initiator = ReachInitiator(
            self._control, self._relays, self._probing, self._whereabouts, peer_id, circuits
        )
        task = asyncio.create_task(initiator.run())
        self._initiators[initiator] = task
        task.add_done_callback(lambda done: self._forget(initiator, peer_id, done))
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
        for initiator in tuple(self._initiators):
            initiator.reach.link.close()
        await asyncio.gather(*tuple(self._initiators.values()), return_exceptions=True)
        await self._responder.close()

    def _forget(self, initiator: ReachInitiator, peer_id: PeerId, done: asyncio.Task[None]) -> None:
        self._initiators.pop(initiator, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("signalling with %s broke", peer_id.short, exc_info=error)
