"""A connection of the control plane, seen from asyncio."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from transport.control_base import ControlConnection
from transport.control_settings import ControlSettings
from transport.control_stream import LibP2pStream
from transport.control_thread import TrioThread
from transport.errors import PeerGone, TimedOut
from transport.multistream import Initiator, Responder

if TYPE_CHECKING:
    from transport.control_library import YamuxStream
    from transport.control_link import Link

__all__ = ["LibP2pConnection", "agree_as_responder"]

_LINE_READ_BYTES: Final = 1024
"""Protocol names come in a few hundred bytes; what is read beyond them is put back."""


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

    def stream(self, muxed: "YamuxStream") -> LibP2pStream:
        return LibP2pStream(self._thread, muxed, self, self._settings)

    async def open_stream(self, protocol: str, *, timeout_s: float) -> LibP2pStream:
        if self.is_closed:
            raise PeerGone(self.link.end_reason)
        stream: LibP2pStream | None = None
        try:
            async with asyncio.timeout(timeout_s):
                stream = self.stream(await self._open_muxed())
                await _agree_as_initiator(stream, protocol)
        except BaseException as error:
            if stream is not None:
                await stream.reset()
            if isinstance(error, TimeoutError):
                raise TimedOut(
                    f"The peer did not agree to '{protocol}' within {timeout_s:g} s."
                ) from None
            raise
        return stream

    async def _open_muxed(self) -> "YamuxStream":
        from transport.control_defects import open_muxed

        opening = self._thread.submit(open_muxed, self.link.muxed)
        try:
            await asyncio.wait((opening,))
        except asyncio.CancelledError:
            opening.add_done_callback(self._reset_abandoned)
            raise
        return opening.result()

    def _reset_abandoned(self, opening: "asyncio.Future[YamuxStream]") -> None:
        from transport.control_defects import reset_muxed

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


async def _agree_as_initiator(stream: LibP2pStream, protocol: str) -> None:
    """Raises ProtocolNotSupported, RemoteProtocolError, PeerGone or StreamReset."""
    initiator = Initiator(protocol)
    await stream.write(initiator.opening)
    while not initiator.is_agreed:
        data = await stream.read(_LINE_READ_BYTES)
        if not data:
            raise RemoteProtocolError("The peer ended the stream instead of naming a protocol.")
        stream.unread(initiator.feed(data))


async def agree_as_responder(stream: LibP2pStream, is_served: Callable[[str], bool]) -> str:
    """The protocol that the peer has chosen. Raises RemoteProtocolError, PeerGone, StreamReset."""
    responder = Responder(is_served)
    while responder.protocol is None:
        data = await stream.read(_LINE_READ_BYTES)
        if not data:
            raise RemoteProtocolError("The peer ended the stream instead of naming a protocol.")
        try:
            stream.unread(responder.feed(data))
        finally:
            if answer := responder.take_answer():
                await stream.write(answer)
    return responder.protocol
