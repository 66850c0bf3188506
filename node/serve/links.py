"""Where a session's incoming link meets its OPEN: either may come first.

The head opens all hops at once, so the upstream hop's ATTACH can overtake the head's OPEN. An
ATTACH for a session nobody has opened waits a little; how many may wait is bounded per peer.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from protocol.errors import ErrorCode, RemoteProtocolError, SessionError
from protocol.frame import Attach, Open, Opened, encode_frame
from protocol.identity import PeerId
from protocol.session import OPEN_TIMEOUT_S
from transport.base import Stream

__all__ = ["ExpectedLink", "LinkBoard"]

WAITING_PER_PEER_MAX = 32
"""ATTACH streams of one peer that wait for their OPEN."""


class ExpectedLink:
    """The incoming link of one session: who may attach, and what did."""

    def __init__(self, request: Open) -> None:
        self.request = request
        self.stream: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
        self.over = asyncio.Event()
        """Set when the session ends; the link's handler returns then."""

    async def wait(self, previous: PeerId) -> Stream:
        """The attached stream; the caller bounds the wait."""
        stream = await asyncio.shield(self.stream)
        assert stream.peer_id == previous
        return stream


class LinkBoard:
    """Expected links by session. Call from the event loop only."""

    def __init__(self) -> None:
        self._expected: dict[bytes, ExpectedLink] = {}
        self._arrivals: dict[bytes, asyncio.Event] = {}
        self._waiting: Counter[PeerId] = Counter()

    @contextmanager
    def expect(self, request: Open) -> Iterator[ExpectedLink]:
        """Take this session's link for as long as the block runs."""
        link = ExpectedLink(request)
        self._expected[request.session_id] = link
        if arrival := self._arrivals.get(request.session_id):
            arrival.set()
        try:
            yield link
        finally:
            link.over.set()
            del self._expected[request.session_id]

    async def attach(self, frame: Attach, stream: Stream) -> None:
        """Hand an incoming link to its session, and hold it until the session is over."""
        link = await self._find(frame, stream.peer_id)
        request = link.request
        if (
            stream.peer_id != request.previous
            or (frame.epoch, frame.hop_index) != (request.epoch, request.hop_index)
            or request.hop_index == 0
            or link.stream.done()
        ):
            raise RemoteProtocolError("The link does not belong to this session.")
        opened = Opened(
            frame.session_id, frame.epoch, frame.hop_index, "", path_kind=stream.path_kind
        )
        await stream.send(*encode_frame(opened))
        if not link.stream.done():
            link.stream.set_result(stream)
        await link.over.wait()

    async def _find(self, frame: Attach, peer: PeerId) -> ExpectedLink:
        if link := self._expected.get(frame.session_id):
            return link
        if self._waiting[peer] >= WAITING_PER_PEER_MAX:
            raise SessionError("Too many links wait here.", code=ErrorCode.NO_CAPACITY)
        arrival = self._arrivals.setdefault(frame.session_id, asyncio.Event())
        self._waiting[peer] += 1
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await arrival.wait()
        except TimeoutError:
            raise SessionError(
                "Nobody opened the session of this link.", code=ErrorCode.UNKNOWN_SESSION
            ) from None
        finally:
            self._waiting -= Counter({peer: 1})
            self._arrivals.pop(frame.session_id, None)
        return self._expected[frame.session_id]
