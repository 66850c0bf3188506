"""Where a session's incoming links meet its OPEN, and a link as the hop at either end holds it.

The head opens all hops at once, so a neighbour's ATTACH can overtake the head's OPEN. An ATTACH
that nobody expects waits a little; how many may wait is bounded per peer. Links are made anew in
every epoch: who is expected, and in which epoch and role, is all that an ATTACH is matched by.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from node.serve.codes import gone
from protocol.errors import ErrorCode, RemoteProtocolError, SessionError
from protocol.frame import Attach, Frame, LinkRole, Open, Opened, decode_frame, encode_frame
from protocol.identity import PeerId
from protocol.session import OPEN_TIMEOUT_S
from transport.base import Stream
from transport.errors import StreamReset, TransportError

__all__ = ["ExpectedLink", "Link", "LinkBoard"]

WAITING_PER_PEER_MAX = 128
"""ATTACH streams of one peer that wait for their OPEN: half of the sessions a node may have. When
a hop dies, all its sessions come to the one that takes its place at the same moment."""

LINK_END_GRACE_S = 1.0
"""A neighbour that is alive and ends a link was told to by its OPEN or CLOSE, a moment before ours
comes; had it failed, it would have said so to the head itself. So there is no hurry."""

_Key = tuple[bytes, int, int, LinkRole]


class Link:
    """One link of an epoch: whatever breaks on it is its other end's doing, and said so."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    @property
    def peer_id(self) -> PeerId:
        return self._stream.peer_id

    @property
    def path_kind(self) -> str:
        return self._stream.path_kind

    async def send(self, frame: Frame) -> None:
        """Raises NeighbourGone. For one sender; cancelled amid a frame, the link is broken."""
        try:
            await self._stream.send(*encode_frame(frame))
        except StreamReset as error:
            await asyncio.sleep(LINK_END_GRACE_S)
            raise gone(self.peer_id, error.message) from error
        except TransportError as error:
            raise gone(self.peer_id, error.message) from error

    async def receive(self) -> Frame | None:
        """The next frame; None for one of a type that we do not know. Raises NeighbourGone."""
        try:
            data = await self._stream.receive()
            if data is not None:
                return decode_frame(data)
            reason = "it ended the link."
        except StreamReset as error:
            reason = error.message
        except TransportError as error:
            raise gone(self.peer_id, error.message) from error
        except RemoteProtocolError as error:
            raise gone(self.peer_id, error.message, ErrorCode.MALFORMED) from error
        await asyncio.sleep(LINK_END_GRACE_S)
        raise gone(self.peer_id, reason)

    async def watch(self) -> None:
        """For a link that we send on: nothing comes back but its end. Raises NeighbourGone."""
        while True:
            await self.receive()

    def end(self, *, is_void: bool) -> None:
        """Let go of a link that we dialled; what is still under way on a void one is dropped."""
        if is_void:
            self._stream.reset(ErrorCode.CANCELLED)
            return
        with suppress(TransportError):
            self._stream.finish()


class ExpectedLink:
    """An incoming link of one epoch: who may attach, and what did."""

    def __init__(self, peer: PeerId, rows: int) -> None:
        self.peer = peer
        self.rows = rows
        """Rows that are here: what the other end is told."""
        self.stream: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
        self.over = asyncio.Event()
        """Set when the epoch ends; the link's handler returns then."""

    async def wait(self) -> Link:
        """The attached link; the caller bounds the wait."""
        return Link(await asyncio.shield(self.stream))


class LinkBoard:
    """Expected links by session, epoch, hop and role. Call from the event loop only."""

    def __init__(self) -> None:
        self._expected: dict[_Key, ExpectedLink] = {}
        self._arrivals: dict[_Key, set[asyncio.Event]] = {}
        self._waiting: Counter[PeerId] = Counter()

    @contextmanager
    def expect(
        self, request: Open, role: LinkRole, peer: PeerId, *, rows: int
    ) -> Iterator[ExpectedLink]:
        """Take this link from `peer` for as long as the block runs.

        Raises SessionError where another session of this node expects the same.
        """
        key = (request.session_id, request.epoch, request.hop_index, role)
        if key in self._expected:
            raise SessionError("The session is open already.", code=ErrorCode.NOT_ADMITTED)
        link = self._expected[key] = ExpectedLink(peer, rows)
        for arrival in self._arrivals.get(key, ()):
            arrival.set()
        try:
            yield link
        finally:
            link.over.set()
            del self._expected[key]

    async def attach(self, frame: Attach, stream: Stream) -> None:
        """Hand an incoming link to its session, and hold it until the epoch is over."""
        link = await self._find(frame, stream)
        if link is None or stream.peer_id != link.peer or link.stream.done():
            raise RemoteProtocolError("The link does not belong to this session.")
        opened = Opened(
            frame.session_id, frame.epoch, frame.hop_index, "", str(stream.path_kind), link.rows
        )
        link.stream.set_result(stream)
        await stream.send(*encode_frame(opened))
        await link.over.wait()

    async def _find(self, frame: Attach, stream: Stream) -> ExpectedLink | None:
        key = (frame.session_id, frame.epoch, frame.hop_index, frame.role)
        if key not in self._expected:
            await self._wait_expected(key, stream)
        return self._expected.get(key)

    async def _wait_expected(self, key: _Key, stream: Stream) -> None:
        """Until somebody expects that link, or its sender gives it up."""
        peer = stream.peer_id
        if self._waiting[peer] >= WAITING_PER_PEER_MAX:
            raise SessionError("Too many links wait here.", code=ErrorCode.NO_CAPACITY)
        arrival = asyncio.Event()
        arrivals = self._arrivals.setdefault(key, set())
        arrivals.add(arrival)
        self._waiting[peer] += 1
        arrived = asyncio.create_task(arrival.wait())
        ended = asyncio.create_task(stream.receive())
        try:
            await asyncio.wait(
                (arrived, ended), timeout=OPEN_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in (arrived, ended):
                task.cancel()
            await asyncio.gather(arrived, ended, return_exceptions=True)
            self._waiting -= Counter({peer: 1})
            arrivals.discard(arrival)
            if not arrivals:
                self._arrivals.pop(key, None)
        if not ended.cancelled():
            raise RemoteProtocolError("The link ended, or spoke, before it was taken.")
        if not arrival.is_set():
            raise SessionError(
                "Nobody opened the session of this link.", code=ErrorCode.UNKNOWN_SESSION
            )
