"""`LanStream`: a `Stream` that has a TCP connection of its own.

It ends as a QUIC stream does (RFC 9000 section 3): each direction by itself, with FIN or RESET.
The TCP connection is closed when both directions have ended and both ends know it.
"""

import asyncio
from collections.abc import Callable

from protocol.errors import PieceworkError
from protocol.identity import PeerId
from transport.base import PathKind, Stream, StreamStatistics
from transport.errors import (
    FrameTooLarge,
    ProtocolNotSupported,
    StreamReset,
    TransportError,
)
from transport.lan.carrier import LanCarrier
from transport.quic.halves import ReceivingHalf, SendingHalf
from transport.quic.seams import ResetCode

__all__ = ["LanStream"]


class LanStream(Stream):
    """Used by one reader and one writer at a time. Made when its opening has been answered."""

    def __init__(
        self,
        carrier: LanCarrier,
        peer_id: PeerId,
        *,
        is_ours: bool,
        linger_s: float,
        on_closed: Callable[["LanStream"], None],
    ) -> None:
        self._carrier = carrier
        self._peer_id = peer_id
        self._is_ours = is_ours
        self._linger_s = linger_s
        self._on_closed = on_closed
        self._sending = SendingHalf(carrier, 0)
        self._receiving = ReceivingHalf(carrier, 0)
        self._is_end_acknowledged = False
        self._is_closed = False
        self._linger: asyncio.TimerHandle | None = None

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    @property
    def path_kind(self) -> PathKind:
        return PathKind.LAN

    @property
    def has_frame(self) -> bool:
        """Whether a whole frame waits to be taken."""
        return self._receiving.has_frame

    async def send(self, *parts: bytes) -> None:
        await self._sending.send(parts)

    async def receive(self) -> bytes | None:
        return await self._receiving.receive()

    def finish(self) -> None:
        self._sending.finish()

    def reset(self, code: int) -> None:
        self._give_up(StreamReset(f"This side reset the stream with code {code}.", code), code)

    def close(self) -> None:
        """The handler is done: finish, and refuse whatever the peer still sends."""
        self._sending.finish()
        closed = StreamReset("This side has closed the stream.", ResetCode.NOT_READ)
        self._receiving.stop(closed, ResetCode.NOT_READ)

    def statistics(self) -> StreamStatistics:
        """What TLS has sealed and the socket not taken, at most 1 MiB, is not in the count."""
        return StreamStatistics(
            frames_sent=self._sending.frame_count,
            frames_received=self._receiving.frame_count,
            bytes_sent=self._sending.byte_count,
            bytes_received=self._receiving.byte_count,
            unacknowledged_bytes=self._carrier.unacknowledged_bytes(0)
            + self._carrier.kernel_bytes(),
        )

    def drop(self, error: TransportError) -> None:
        """The connection that watches over this stream is over."""
        self._carrier.abort()
        self.on_gone(error)

    # Called by the carrier

    def on_data(self, data: memoryview) -> None:
        receiving = self._receiving
        self._carrier.on_arrived(len(data))
        receiving.on_arrived(len(data))
        if receiving.error is not None:
            receiving.drop_unread()
            return
        try:
            receiving.feed(data)
        except FrameTooLarge as error:
            self._give_up(error, ResetCode.FRAME_TOO_LARGE)

    def on_fin(self) -> None:
        self._receiving.finish()
        self._carrier.acknowledge_end()
        self._close_if_done()

    def on_reset(self, code: int) -> None:
        """The peer reset its sending side."""
        self._receiving.finish_by_reset(self._reset_error(code), 0)
        self._carrier.acknowledge_end()
        self._close_if_done()

    def on_stop(self, code: int) -> None:
        """The peer will read no more."""
        if self._sending.is_done:
            return
        self._sending.fail(self._reset_error(code))
        self._carrier.reset_stream(0, code)

    def on_ended(self) -> None:
        """Our FIN or RESET has arrived."""
        self._is_end_acknowledged = self._sending.is_done
        self._close_if_done()

    def on_room(self) -> None:
        self._sending.on_room()

    def on_gone(self, error: TransportError) -> None:
        """The TCP connection is over, in whichever way."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._linger is not None:
            self._linger.cancel()
        self._receiving.fail(error)
        self._sending.fail(error)
        self._on_closed(self)

    def _reset_error(self, code: int) -> TransportError:
        if code == ResetCode.PROTOCOL_NOT_SUPPORTED and self._is_ours:
            return ProtocolNotSupported("The peer does not speak the protocol of this stream.")
        return StreamReset(f"The peer reset the stream with code {code}.", code)

    def _give_up(self, error: PieceworkError, code: int) -> None:
        self._receiving.stop(error, code)
        self._sending.reset(error, code)
        if self._linger is None and not self._is_closed:
            loop = asyncio.get_running_loop()
            self._linger = loop.call_later(self._linger_s, self._carrier.abort)

    def _close_if_done(self) -> None:
        if self._receiving.is_finished and self._is_end_acknowledged:
            self._carrier.close()
