"""The head's own stream, on which several tasks of a session send."""

import asyncio

from protocol.errors import ErrorCode, SessionError
from protocol.frame import Frame, encode_frame
from protocol.identity import PeerId
from protocol.session import IDLE_TIMEOUT_S
from transport.base import Stream

__all__ = ["HeadStream"]


class HeadStream:
    """Frames go out whole and one at a time, whoever is cancelled meanwhile.

    A sender that is cancelled in the middle of a frame would break the stream, and with it the
    session: a repair cancels work, and goes on over this very stream.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._lock = asyncio.Lock()
        self._sending: asyncio.Task[None] | None = None

    @property
    def peer_id(self) -> PeerId:
        return self._stream.peer_id

    @property
    def path_kind(self) -> str:
        return self._stream.path_kind

    async def send(self, frame: Frame) -> None:
        """Raises TransportError when the head is gone, SessionError when it takes nothing.

        Cancelled while another frame goes out, nothing is sent; after that, all of the frame is.
        """
        try:
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                await self._lock.acquire()
                self._sending = asyncio.create_task(self._stream.send(*encode_frame(frame)))
                self._sending.add_done_callback(lambda _: self._lock.release())
                await asyncio.shield(self._sending)
        except TimeoutError:
            raise SessionError("The head takes nothing.", code=ErrorCode.TIMED_OUT) from None

    async def receive(self) -> bytes | None:
        return await self._stream.receive()

    async def close(self) -> None:
        """Give up what has not left yet: the session is over."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
