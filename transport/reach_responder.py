"""The called side of signalling: answers CONNECT, punches at SYNC, keeps the link.

Everything here was asked for by a stranger whose PeerId Noise has proved: how many links he may
have, and how long one may wait for its connection, is bounded by name.
"""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Final

from protocol.errors import PieceworkError, RemoteProtocolError
from protocol.identity import PeerId
from protocol.reach import Connect, Sync
from transport.control_base import ControlStream
from transport.errors import TransportError
from transport.probing import Probing
from transport.reach_link import ReachLink
from transport.reach_messages import expect, receive, send
from transport.tunnel import read_link
from transport.whereabouts import Whereabouts

__all__ = ["ReachResponder"]

LINKS_MAX: Final = 1024
LINKS_PER_PEER_MAX: Final = 4
"""As many as connections; a restarted peer leaves dead ones behind, the oldest go."""

FIRST_MESSAGE_TIMEOUT_S: Final = 10.0

CONNECTION_TIMEOUT_S: Final = 20.0
"""A link whose peer has made no QUIC connection by then is given up."""

log = logging.getLogger(__name__)


class _Called:
    """One link that a peer asked for."""

    def __init__(self, reach: ReachLink) -> None:
        self.reach = reach
        self.stream: ControlStream | None = None
        """The newest signalling stream of the link."""
        self.theirs: Connect | None = None


class ReachResponder:
    """Owned by the home host; its two handlers are set on the control plane."""

    def __init__(
        self, probing: Probing, whereabouts: Whereabouts, on_trouble: Callable[[], None]
    ) -> None:
        """`on_trouble`: a path fell silent, so relays should be checked."""
        self._probing = probing
        self._whereabouts = whereabouts
        self._on_trouble = on_trouble
        self._called: dict[bytes, _Called] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def links(self) -> tuple[ReachLink, ...]:
        return tuple(called.reach for called in self._called.values())

    async def serve(self, stream: ControlStream) -> None:
        """The handler of REACH_PROTOCOL."""
        first = await expect(stream, Connect, timeout_s=FIRST_MESSAGE_TIMEOUT_S)
        called = self._link(first, stream.peer_id)
        called.stream = stream
        await self._answer(called, stream, first)
        while not called.reach.over.is_set():
            match await receive(stream):
                case Connect() as again:
                    await self._answer(called, stream, again)
                case Sync():
                    await self._punch(called)

    async def serve_tunnel(self, stream: ControlStream) -> None:
        """The handler of TUNNEL_PROTOCOL: holds the stream for as long as the link lives."""
        async with asyncio.timeout(FIRST_MESSAGE_TIMEOUT_S):
            link_id, rest = await read_link(stream)
        called = self._called.get(link_id)
        if called is None or called.reach.link.peer_id != stream.peer_id:
            raise RemoteProtocolError("The tunnel is for a link that is not here.")
        called.reach.add_tunnel(stream, rest)
        await called.reach.over.wait()

    async def close(self) -> None:
        for called in tuple(self._called.values()):
            await called.reach.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _link(self, first: Connect, peer_id: PeerId) -> _Called:
        """The link that this CONNECT is about, known or new."""
        known = self._called.get(first.link)
        if known is not None:
            if known.reach.link.peer_id != peer_id:
                raise RemoteProtocolError("The link is another peer's.")
            return known
        self._make_room(peer_id)
        link_id = first.link
        reach = ReachLink(
            self._probing, link_id, first.key, peer_id,
            is_initiator=False, on_want_signal=lambda reason: self._want_signal(link_id, reason),
        )  # fmt: skip
        called = self._called[link_id] = _Called(reach)
        task = asyncio.create_task(self._keep(link_id, called))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return called

    def _make_room(self, peer_id: PeerId) -> None:
        if len(self._called) >= LINKS_MAX:
            raise RemoteProtocolError(f"This node keeps at most {LINKS_MAX} links.")
        of_peer = [c for c in self._called.values() if c.reach.link.peer_id == peer_id]
        if len(of_peer) >= LINKS_PER_PEER_MAX:
            of_peer[0].reach.link.close()

    async def _keep(self, link_id: bytes, called: _Called) -> None:
        """Until the link is over, or its peer never came; then free what it has."""
        try:
            await called.reach.link.wait_connection(CONNECTION_TIMEOUT_S)
            await called.reach.over.wait()
        except PieceworkError as error:
            log.info("a link came to nothing: %s", error)
        finally:
            del self._called[link_id]
            await called.reach.close()
            if called.stream is not None:
                await called.stream.close()

    async def _answer(self, called: _Called, stream: ControlStream, theirs: Connect) -> None:
        called.theirs, called.stream = theirs, stream
        link = called.reach.link
        link.on_signal_alive(monotonic())
        for side in theirs.circuits:
            called.reach.add_circuit(side)
        called.reach.rebind()
        hints = await self._whereabouts.measure()
        own = Connect(theirs.round, theirs.link, theirs.key, hints, self._whereabouts.candidates())
        await send(stream, own)

    async def _punch(self, called: _Called) -> None:
        theirs, whereabouts = called.theirs, self._whereabouts
        if theirs is not None:
            called.reach.link.punch(
                whereabouts.candidates(), theirs.candidates,
                whereabouts.hints, theirs.hints, monotonic(),
            )  # fmt: skip

    def _want_signal(self, link_id: bytes, reason: str) -> None:
        """Ask the initiator for a round; what if he cannot be asked, he notices himself."""
        self._on_trouble()
        self._whereabouts.network_changed()
        called = self._called.get(link_id)
        if called is None or called.stream is None or called.theirs is None:
            return
        called.reach.rebind()
        asking = asyncio.create_task(self._ask(called.stream, called.theirs))
        self._tasks.add(asking)
        asking.add_done_callback(self._tasks.discard)

    async def _ask(self, stream: ControlStream, theirs: Connect) -> None:
        whereabouts = self._whereabouts
        request = Connect(
            theirs.round + 1, theirs.link, theirs.key, whereabouts.hints, whereabouts.candidates()
        )
        try:
            await send(stream, request)
        except TransportError as error:
            log.debug("the peer could not be asked to signal: %s", error)
