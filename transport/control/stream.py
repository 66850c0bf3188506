"""A stream of the muxer, seen from asyncio: bytes cross to and from its thread one read at a time.

What is read but not asked for yet is at most one read; everything else waits in the muxer, whose
window then keeps the peer from sending.
"""

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import PeerId
from transport.control.base import ControlStream
from transport.control.settings import ControlSettings
from transport.control.thread import TrioThread
from transport.errors import PeerGone, ProtocolNotSupported, TransportError
from transport.multistream import Initiator

if TYPE_CHECKING:
    from transport.control.library import YamuxStream

__all__ = ["LINE_READ_BYTES", "LibP2pStream", "StreamOwner"]

LINE_READ_BYTES: Final = 1024
"""Protocol names come in a few hundred bytes; what is read beyond them is kept for the reader."""


class StreamOwner(Protocol):
    """What a stream knows of its connection."""

    @property
    def peer_id(self) -> PeerId: ...
    @property
    def is_relayed(self) -> bool: ...
    @property
    def remote(self) -> str: ...


class LibP2pStream(ControlStream):
    """Made by `LibP2pConnection`."""

    def __init__(
        self,
        thread: TrioThread,
        muxed: "YamuxStream",
        owner: StreamOwner,
        settings: ControlSettings,
        initiator: Initiator | None = None,
    ) -> None:
        """`initiator` if we opened it: its opening is the first thing to be written."""
        self._initiator = initiator
        """Until the peer has agreed."""
        self._thread = thread
        self._muxed = muxed
        self._owner = owner
        self._settings = settings
        self._unread = b""
        self._end: TransportError | None = None
        self._is_ended = False
        self._is_finished = False
        self._is_closed = False
        self._reading: asyncio.Future[bytes] | None = None
        self._writing: asyncio.Future[None] | None = None

    @property
    def peer_id(self) -> PeerId:
        return self._owner.peer_id

    @property
    def is_relayed(self) -> bool:
        return self._owner.is_relayed

    @property
    def remote(self) -> str:
        return self._owner.remote

    async def read(self, bytes_max: int) -> bytes:
        """As in `ControlStream`; cancelled, it loses nothing: the next read gets the bytes."""
        from transport.control.defects import read_muxed

        if bytes_max < 1:
            raise LocalProtocolError("A read of no bytes cannot tell whether the stream has ended.")
        while not self._unread:
            if self._is_closed:
                raise LocalProtocolError("The stream is closed on this side.")
            if self._end is not None:
                raise self._end
            if self._is_ended:
                return b""
            if self._reading is None:
                wanted = bytes_max if self._initiator is None else LINE_READ_BYTES
                size = min(wanted, self._settings.read_bytes_max)
                self._reading = self._thread.submit(read_muxed, self._muxed, size)
                self._reading.add_done_callback(self._on_read)
            await asyncio.wait((self._reading,))
        data, self._unread = self._unread[:bytes_max], self._unread[bytes_max:]
        return data

    def unread(self, data: bytes) -> None:
        """Put back what was read too much."""
        self._unread = data + self._unread

    async def write(self, data: bytes) -> None:
        """As in `ControlStream`; cancelled, the data is sent all the same, and the next waits."""
        from transport.control.defects import write_muxed

        while self._writing is not None:
            await asyncio.wait((self._writing,))
        if self._is_closed or self._is_finished:
            raise LocalProtocolError("Nothing can be written after the end of the stream.")
        writing = self._writing = self._thread.submit(write_muxed, self._muxed, data)
        writing.add_done_callback(self._on_written)
        await asyncio.wait((writing,))
        if (error := writing.exception()) is not None:
            raise _ours(error)

    async def finish(self) -> None:
        from transport.control.defects import finish_muxed

        if self._is_closed or self._is_finished:
            return
        self._is_finished = True
        while self._writing is not None:
            await asyncio.wait((self._writing,))
        await self._quietly(self._thread.submit(finish_muxed, self._muxed))

    async def close(self) -> None:
        """Returns at once; what the peer still sends is thrown away, for a while."""
        from transport.control.defects import close_muxed

        if self._is_closed:
            return
        if self._writing is not None:
            await self.reset()  # an end behind a write that waits for the peer would never come
            return
        self._stop()
        self._thread.submit(close_muxed, self._muxed, self._settings.linger_s)

    async def reset(self) -> None:
        from transport.control.defects import reset_muxed

        if self._is_closed:
            return
        self._stop()
        await self._quietly(self._thread.submit(reset_muxed, self._muxed))

    def detach(self) -> tuple["YamuxStream", bytes, Initiator | None]:
        """The muxer's own stream, for its thread, and what was read of it but not used; and whose
        agreement is the first thing to be read, if the peer has not agreed yet."""
        assert self._reading is None, "nobody may be reading"
        assert self._writing is None, "nobody may be writing"
        self._is_closed = True
        return self._muxed, self._unread, self._initiator

    def _stop(self) -> None:
        self._is_closed = True
        self._unread = b""
        if self._reading is not None:
            self._reading.cancel()

    def _on_read(self, reading: asyncio.Future[bytes]) -> None:
        self._reading = None
        if self._is_closed or reading.cancelled():
            return
        error = reading.exception()
        if error is not None:
            self._end = _ours(error)
        elif self._initiator is not None:
            self._on_answer(self._initiator, reading.result())
        else:
            self._unread += reading.result()
            self._is_ended = not reading.result()

    def _on_answer(self, initiator: Initiator, data: bytes) -> None:
        """What the peer says to the protocol that was proposed, and what follows."""
        from transport.control.defects import reset_muxed

        try:
            if not data:
                raise RemoteProtocolError("The peer ended the stream instead of naming a protocol.")
            self._unread += initiator.feed(data)
        except (ProtocolNotSupported, RemoteProtocolError) as error:
            self._end = ProtocolNotSupported(error.message)
            self._thread.submit(reset_muxed, self._muxed)
        else:
            if initiator.is_agreed:
                self._initiator = None

    def _on_written(self, _writing: asyncio.Future[None]) -> None:
        self._writing = None

    async def _quietly(self, future: asyncio.Future[None]) -> None:
        await asyncio.wait((future,), timeout=self._settings.close_timeout_s)


def _ours(error: BaseException) -> TransportError:
    """Whatever else the library lets through ends the stream like a lost connection."""
    return error if isinstance(error, TransportError) else PeerGone(f"The muxer failed: {error!r}.")
