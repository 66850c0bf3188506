"""A connection of the control plane, seen from asyncio."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from transport.control.base import ControlConnection
from transport.control.settings import ControlSettings
from transport.control.stream import LINE_READ_BYTES, LibP2pStream
from transport.control.thread import TrioThread
from transport.errors import PeerGone, ProtocolNotSupported, TimedOut
from transport.multistream import Initiator, Responder

if TYPE_CHECKING:
    from transport.control.library import YamuxStream
    from transport.control.link import Link

__all__ = ["LibP2pConnection", "agree_as_responder"]


class LibP2pConnection(ControlConnection):
    """Made by `LibP2pHost`, which also says when it has ended."""

    def __init__(self, thread: TrioThread, link: "Link", settings: ControlSettings) -> None:
        self.link = link
        self._thread = thread
        self._settings = settings
        self._closed = asyncio.Event()

    @property
    def peer_id(self) -> PeerId:
        return self.link.peer_id

    @property
    def is_relayed(self) -> bool:
        return self.link.relay is not None

    @property
    def remote(self) -> str:
        return self.link.remote

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    def stream(self, muxed: "YamuxStream", initiator: Initiator | None = None) -> LibP2pStream:
        """One that the peer opened, or with `initiator` one of ours."""
        return LibP2pStream(self._thread, muxed, self, self._settings, initiator)

    async def open_stream(self, protocol: str, *, timeout_s: float) -> LibP2pStream:
        if self.is_closed:
            raise PeerGone(self.link.end_reason)
        stream: LibP2pStream | None = None
        try:
            async with asyncio.timeout(timeout_s):
                initiator = Initiator(protocol)
                stream = self.stream(await self._open_muxed(), initiator)
                await stream.write(initiator.opening)
        except BaseException as error:
            if stream is not None:
                await stream.reset()
            if isinstance(error, TimeoutError):
                raise TimedOut(
                    f"'{protocol}' could not be proposed to the peer within {timeout_s:g} s."
                ) from None
            raise
        return stream

    async def _open_muxed(self) -> "YamuxStream":
        from transport.control.defects import open_muxed

        opening = self._thread.submit(open_muxed, self.link.muxed)
        try:
            await asyncio.wait((opening,))
        except asyncio.CancelledError:
            opening.add_done_callback(self._reset_abandoned)
            raise
        return opening.result()

    def _reset_abandoned(self, opening: "asyncio.Future[YamuxStream]") -> None:
        from transport.control.defects import reset_muxed

        if opening.exception() is None:
            self._thread.submit(reset_muxed, opening.result())

    async def wait_closed(self) -> None:
        await self._closed.wait()

    async def close(self) -> None:
        if not self.is_closed:
            self._thread.submit(self.link.close)
            await self._closed.wait()

    def ended(self) -> None:
        self._closed.set()


async def agree_as_responder(stream: LibP2pStream, is_served: Callable[[str], bool]) -> str:
    """The protocol that the peer has chosen.

    Raises ProtocolNotSupported if he was told `na` and makes no other proposal, for what follows
    is an optimistic initiator's data; RemoteProtocolError, PeerGone or StreamReset.
    """
    responder = Responder(is_served)
    while responder.protocol is None:
        data = await stream.read(LINE_READ_BYTES)
        try:
            if not data:
                raise RemoteProtocolError("The peer ended the stream instead of naming a protocol.")
            stream.unread(responder.feed(data))
        except RemoteProtocolError:
            if responder.has_refused:
                raise ProtocolNotSupported("The peer wants a protocol that we lack.") from None
            raise
        finally:
            if answer := responder.take_answer():
                await stream.write(answer)
    return responder.protocol
