"""The called side of signalling: answers CONNECT, punches at SYNC, keeps the link.

Everything here was asked for by a stranger whose PeerId Noise has proved: how many links he may
have, and how long one may wait for its connection, is bounded by name.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

from protocol.errors import PieceworkError, RemoteProtocolError
from protocol.identity import PeerId
from protocol.reach import ROUNDS_MAX, Connect, Sync
from transport.control.base import ControlStream
from transport.errors import PeerGone, TimedOut
from transport.paths.probing import Probing
from transport.reach.messages import expect, receive, send
from transport.reach.reach_link import ReachLink
from transport.reach.tunnel import read_link
from transport.reach.whereabouts import Whereabouts

__all__ = ["LINKS_PER_PEER_MAX", "ReachResponder"]

LINKS_MAX: Final = 1024
"""When all are in use nobody new is served; of those without a connection the oldest goes."""

LINKS_PER_PEER_MAX: Final = 4
"""As many as connections; a restarted peer leaves dead ones behind, the oldest go."""

FIRST_MESSAGE_TIMEOUT_S: Final = 10.0

CONNECTION_TIMEOUT_S: Final = 20.0
"""A link whose peer has made no QUIC connection by then is given up."""

ROUND_GAP_S: Final = 0.2
"""Between rounds of one link: each makes us send probes to addresses of the peer's choice."""

log = logging.getLogger(__name__)


class _Called:
    """One link that a peer asked for."""

    def __init__(self, reach: ReachLink, first: Connect) -> None:
        self.reach = reach
        self.stream: ControlStream | None = None
        """The newest signalling stream of the link."""
        self.theirs = first
        """Of the newest round."""
        self.is_punched = True
        """Whether the newest round's SYNC has been obeyed, or is not awaited yet."""
        self.asking: asyncio.Task[None] | None = None
        self.writing = asyncio.Lock()
        """A stream has one writer at a time."""

    @property
    def peer_id(self) -> PeerId:
        return self.reach.link.peer_id


class ReachResponder:
    """Owned by the home host; its two handlers are set on the control plane."""

    def __init__(
        self,
        probing: Probing,
        whereabouts: Whereabouts,
        on_trouble: Callable[[], None],
        on_over: Callable[[PeerId], Awaitable[None]],
        *,
        links_max: int = LINKS_MAX,
        first_message_timeout_s: float = FIRST_MESSAGE_TIMEOUT_S,
        connection_timeout_s: float = CONNECTION_TIMEOUT_S,
    ) -> None:
        """`on_trouble`: a path fell silent, so relays should be checked. `on_over`: a link to that
        peer has ended and is free."""
        self._probing = probing
        self._whereabouts = whereabouts
        self._on_trouble = on_trouble
        self._on_over = on_over
        self._links_max = links_max
        self._first_message_timeout_s = first_message_timeout_s
        self._connection_timeout_s = connection_timeout_s
        self._called: dict[bytes, _Called] = {}
        self._keeping: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def links(self) -> tuple[ReachLink, ...]:
        return tuple(called.reach for called in self._called.values())

    async def serve(self, stream: ControlStream) -> None:
        """The handler of REACH_PROTOCOL: until the link is over, or the peer has another stream."""
        first = await expect(stream, Connect, timeout_s=self._first_message_timeout_s)
        called = self._link(first, stream.peer_id)
        older, called.stream = called.stream, stream
        if older is not None:
            await older.reset()
        await called.reach.while_alive(self._talk(called, stream, first))

    async def serve_tunnel(self, stream: ControlStream) -> None:
        """The handler of TUNNEL_PROTOCOL: holds the stream for as long as the tunnel lives."""
        try:
            async with asyncio.timeout(self._first_message_timeout_s):
                link_id, rest = await read_link(stream)
        except TimeoutError:
            raise TimedOut("The peer did not say which link its tunnel is for.") from None
        called = self._called.get(link_id)
        if called is None or called.peer_id != stream.peer_id or called.reach.over.is_set():
            raise RemoteProtocolError("The tunnel is for a link that is not here.")
        tunnel = called.reach.add_tunnel(stream, rest=rest)
        try:
            await tunnel.wait_ended()
        finally:
            tunnel.end("the control plane was closed")

    async def close(self) -> None:
        self._is_closed = True
        for called in tuple(self._called.values()):
            called.reach.link.close()
        await asyncio.gather(*self._keeping)

    def _link(self, first: Connect, peer_id: PeerId) -> _Called:
        """The link that this CONNECT is about, known or new."""
        if self._is_closed:
            raise PeerGone("This host is closed.")
        known = self._called.get(first.link)
        if known is not None:
            if known.peer_id != peer_id or known.reach.over.is_set():
                raise RemoteProtocolError("The link is another peer's, or over.")
            return known
        self._make_room(peer_id)
        link_id = first.link
        reach = ReachLink(
            self._probing, link_id, first.key, peer_id,
            is_initiator=False, on_want_signal=lambda reason: self._want_signal(link_id),
        )  # fmt: skip
        called = self._called[link_id] = _Called(reach, first)
        task = asyncio.create_task(self._keep(link_id, called))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)
        return called

    def _make_room(self, peer_id: PeerId) -> None:
        """A link of somebody else that is in use is never given up for a new one."""
        alive = [called for called in self._called.values() if not called.reach.over.is_set()]
        of_peer = [called for called in alive if called.peer_id == peer_id]
        unused = [called for called in alive if called.reach.link.connection is None]
        if len(of_peer) >= LINKS_PER_PEER_MAX:
            of_peer[0].reach.link.close()
        elif len(alive) < self._links_max:
            return
        elif unused:
            unused[0].reach.link.close()
        else:
            raise RemoteProtocolError(f"This node keeps at most {self._links_max} links.")

    async def _keep(self, link_id: bytes, called: _Called) -> None:
        """Until the link is over, or its peer never came; then free what it has."""
        try:
            await called.reach.link.wait_connection(self._connection_timeout_s)
            await called.reach.over.wait()
        except PieceworkError as error:
            log.info("a link came to nothing: %s", error)
        finally:
            del self._called[link_id]
            if called.asking is not None:
                called.asking.cancel()
            await called.reach.close()
            await self._on_over(called.peer_id)

    async def _talk(self, called: _Called, stream: ControlStream, first: Connect) -> None:
        await self._answer(called, stream, first)
        while True:
            answered_at = monotonic()
            match await receive(stream):
                case Connect() as again:
                    if again.link != first.link:
                        raise RemoteProtocolError("A signalling stream is for one link.")
                    await asyncio.sleep(answered_at + ROUND_GAP_S - monotonic())
                    await self._answer(called, stream, again)
                case Sync(number):
                    self._punch(called, number)

    async def _answer(self, called: _Called, stream: ControlStream, theirs: Connect) -> None:
        called.theirs, called.is_punched = theirs, False
        reach = called.reach
        reach.link.on_signal_alive(monotonic())
        if theirs.circuits:
            reach.use_circuits(theirs.circuits)
        reach.rebind()
        hints = await self._whereabouts.measure()
        own = Connect(theirs.round, theirs.link, theirs.key, hints, self._whereabouts.candidates())
        async with called.writing:
            await send(stream, own)

    def _punch(self, called: _Called, number: int) -> None:
        """Once a round: a SYNC is small, and what it sets off is not."""
        if called.is_punched or number != called.theirs.round:
            return
        called.is_punched = True
        whereabouts, theirs = self._whereabouts, called.theirs
        called.reach.link.punch(
            whereabouts.candidates(), theirs.candidates,
            whereabouts.hints, theirs.hints, monotonic(),
        )  # fmt: skip

    def _want_signal(self, link_id: bytes) -> None:
        """Ask the initiator for a round; what if he cannot be asked, he notices himself."""
        self._on_trouble()
        self._whereabouts.network_changed()
        called = self._called.get(link_id)
        if called is None or called.stream is None or called.reach.over.is_set():
            return
        called.reach.rebind()
        if called.asking is None or called.asking.done():
            called.asking = asyncio.create_task(self._ask(called, called.stream))

    async def _ask(self, called: _Called, stream: ControlStream) -> None:
        theirs, whereabouts = called.theirs, self._whereabouts
        number = min(theirs.round + 1, ROUNDS_MAX)
        request = Connect(
            number, theirs.link, theirs.key, whereabouts.hints, whereabouts.candidates()
        )
        try:
            async with called.writing:
                await send(stream, request)
        except PieceworkError as error:
            log.debug("the peer could not be asked to signal: %s", error)
