"""The head's own stream to one hop: dialled, written in turn, and read until it ends."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from protocol.errors import PieceworkError
from protocol.frame import PROTOCOL, Frame, decode_frame, encode_frame
from protocol.route import Hop
from transport.address import known_addresses
from transport.base import Host, Stream
from transport.errors import TransportError

__all__ = ["HopLine"]


class HopLine:
    """One hop, or a hop's standby, as the head speaks to it.

    `take` gets every frame in turn; `over` is told once, with the cause, when nothing will follow:
    None where the hop closed the stream itself. After `drop` neither is called.
    """

    def __init__(
        self,
        index: int,
        hop: Hop,
        *,
        take: Callable[["HopLine", Frame], Awaitable[None]],
        over: Callable[["HopLine", PieceworkError | None], None],
    ) -> None:
        self.index = index
        self.hop = hop
        self.is_over = False
        self._take, self._over = take, over
        self._stream: Stream | None = None
        self._reader: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    @property
    def path_kind(self) -> str:
        return str(self._stream.path_kind) if self._stream else ""

    async def dial(self, host: Host, *, timeout_s: float) -> None:
        """Open the stream. Raises TransportError."""
        addresses = known_addresses(self.hop.addresses)
        async with asyncio.timeout(timeout_s):
            connection = await host.connect(self.hop.peer_id, addresses, timeout_s=timeout_s)
            self._stream = await connection.open_stream(PROTOCOL)
        self._reader = asyncio.create_task(self._read(self._stream))

    async def send(self, frame: Frame) -> None:
        """Whole frames in the order of the calls. Raises TransportError."""
        if self._stream is None:
            raise TransportError("The hop has not been dialled.")
        async with self._lock:
            await self._stream.send(*encode_frame(frame))

    def hand_over(
        self,
        take: Callable[["HopLine", Frame], Awaitable[None]],
        over: Callable[["HopLine", PieceworkError | None], None],
    ) -> None:
        """From now on others listen: a standby has become the hop."""
        self._take, self._over = take, over

    def finish(self) -> None:
        """Nothing more will be sent."""
        if self._stream is not None:
            with contextlib.suppress(TransportError):
                self._stream.finish()

    def drop(self, code: int) -> None:
        """Let go of a hop that is lost, without waiting for anything."""
        self.is_over = True
        if self._stream is not None:
            self._stream.reset(code)
        if self._reader is not None:
            self._reader.cancel()

    async def stop(self) -> None:
        """Stop reading; returns when the reader is gone."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self, stream: Stream) -> None:
        cause: PieceworkError | None = None
        try:
            while (data := await stream.receive()) is not None:
                if (frame := decode_frame(data)) is not None:
                    await self._take(self, frame)
        except PieceworkError as error:
            cause = error
        if not self.is_over:
            self.is_over = True
            self._over(self, cause)
