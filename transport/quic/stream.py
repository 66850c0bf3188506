"""One QUIC stream as a `Stream`: first the protocol is agreed on, then frames flow.

Made by its connection, which calls the `on_…` methods from its event pass.
"""

from time import monotonic
from typing import Final

from protocol.errors import PieceworkError, RemoteProtocolError
from protocol.identity import PeerId
from transport.base import PathKind, Stream, StreamStatistics
from transport.errors import (
    FrameTooLarge,
    ProtocolNotSupported,
    StreamReset,
    TimedOut,
    TransportError,
)
from transport.multistream import Initiator, Responder
from transport.quic.halves import ReceivingHalf, SendingHalf
from transport.quic.seams import ResetCode, StreamCarrier

__all__ = ["RAW_PROTOCOLS", "QuicStream"]

RAW_PROTOCOLS: Final = frozenset({"/ipfs/ping/1.0.0", "/ipfs/id/1.0.0"})
"""libp2p's own: `send` and `receive` carry bytes as they are, not frames."""


class QuicStream(Stream):
    """Used by one reader and one writer at a time."""

    def __init__(
        self, carrier: StreamCarrier, stream_id: int, negotiation: Initiator | Responder
    ) -> None:
        self.stream_id = stream_id
        self.is_ours = isinstance(negotiation, Initiator)
        self._carrier = carrier
        self._negotiation: Initiator | Responder | None = negotiation
        self._opened_at = monotonic()
        self._sending = SendingHalf(carrier, stream_id)
        self._receiving = ReceivingHalf(carrier, stream_id)
        if isinstance(negotiation, Initiator):
            self._set_framing(negotiation.protocol)
            carrier.write(stream_id, negotiation.opening)
        elif not carrier.is_writable(stream_id):
            # STOP_SENDING overtook the peer's first data.
            self._sending.fail(StreamReset("The peer does not read this stream.", 0))

    @property
    def peer_id(self) -> PeerId:
        return self._carrier.peer_id

    @property
    def path_kind(self) -> PathKind:
        return self._carrier.path_kind

    async def send(self, *parts: bytes) -> None:
        await self._sending.send(parts)

    async def receive(self) -> bytes | None:
        return await self._receiving.receive()

    def finish(self) -> None:
        self._sending.finish()
        self._forget_if_done()

    def reset(self, code: int) -> None:
        self._give_up(StreamReset(f"This side reset the stream with code {code}.", code), code)

    def close(self) -> None:
        """The handler is done: finish, and refuse whatever the peer still sends."""
        self._sending.finish()
        closed = StreamReset("This side has closed the stream.", ResetCode.NOT_READ)
        self._receiving.stop(closed, ResetCode.NOT_READ)
        self._forget_if_done()

    def statistics(self) -> StreamStatistics:
        return StreamStatistics(
            frames_sent=self._sending.frame_count,
            frames_received=self._receiving.frame_count,
            bytes_sent=self._sending.byte_count,
            bytes_received=self._receiving.byte_count,
            unacknowledged_bytes=self._carrier.unacknowledged_bytes(self.stream_id),
        )

    # Called by the connection

    def on_data(self, data: bytes, *, is_last: bool) -> None:
        receiving = self._receiving
        receiving.on_arrived(len(data))
        if receiving.error is None:
            self._take(data)
        else:
            receiving.drop_unread()
        if is_last:
            receiving.finish()
            if self._negotiation is not None and receiving.error is None:
                self._give_up(
                    RemoteProtocolError("The stream ended before a protocol was agreed on."),
                    ResetCode.MALFORMED,
                )
            self._forget_if_done()

    def on_reset(self, code: int, window_used_bytes: int) -> None:
        """The peer reset its sending side."""
        error = StreamReset(f"The peer reset the stream with code {code}.", code)
        self._receiving.finish_by_reset(error, window_used_bytes)
        self._forget_if_done()

    def on_stop(self, code: int) -> None:
        """The peer will read no more."""
        error: TransportError = StreamReset(f"The peer stopped reading with code {code}.", code)
        if code == ResetCode.PROTOCOL_NOT_SUPPORTED and self.is_ours:
            # Comes just before the `na` that says the same.
            error = ProtocolNotSupported("The peer does not speak the protocol of this stream.")
        self._sending.fail(error)
        self._forget_if_done()

    def on_room(self) -> None:
        """No more than the send limit is unacknowledged again."""
        self._sending.on_room()

    def on_tick(self, now: float) -> None:
        """Every few seconds: an incoming stream that names no protocol is not kept."""
        is_waiting = not self.is_ours and self._negotiation is not None
        if is_waiting and now - self._opened_at >= self._carrier.settings.negotiation_timeout_s:
            self._give_up(TimedOut("The peer named no protocol."), ResetCode.TIMED_OUT)

    def on_gone(self, error: TransportError) -> None:
        """The connection is over."""
        self._receiving.fail(error)
        self._sending.fail(error)

    def _take(self, data: bytes) -> None:
        try:
            if self._negotiation is not None:
                data = self._negotiate(self._negotiation, data)
            if data:
                self._receiving.feed(data)
        except FrameTooLarge as error:
            self._give_up(error, ResetCode.FRAME_TOO_LARGE)
        except ProtocolNotSupported as error:
            self._give_up(error, ResetCode.PROTOCOL_NOT_SUPPORTED)
        except RemoteProtocolError as error:
            self._on_malformed(error)

    def _negotiate(self, negotiation: Initiator | Responder, data: bytes) -> bytes:
        """Returns what of `data` belongs to the agreed protocol already."""
        if isinstance(negotiation, Initiator):
            rest = negotiation.feed(data)
            if negotiation.is_agreed:
                self._negotiation = None
        else:
            try:
                rest = negotiation.feed(data)
            finally:
                if (answer := negotiation.take_answer()) and not self._sending.is_done:
                    self._carrier.write(self.stream_id, answer)
            if negotiation.protocol is not None:
                self._negotiation = None
                self._set_framing(negotiation.protocol)
                self._carrier.accept_stream(self, negotiation.protocol)
        self._receiving.consume(len(data) - len(rest))
        return rest

    def _set_framing(self, protocol: str) -> None:
        if protocol in RAW_PROTOCOLS:
            self._sending.is_raw = True
            self._receiving.read_raw()

    def _on_malformed(self, error: RemoteProtocolError) -> None:
        if isinstance(self._negotiation, Responder) and self._negotiation.has_refused:
            # These were the first frames of an initiator that did not wait for our `na`. A reset
            # could overtake the `na`; finishing cannot.
            self._receiving.stop(error, ResetCode.PROTOCOL_NOT_SUPPORTED)
            self.finish()
        else:
            self._give_up(error, ResetCode.MALFORMED)

    def _give_up(self, error: PieceworkError, code: int) -> None:
        self._receiving.stop(error, code)
        self._sending.reset(error, code)
        self._forget_if_done()

    def _forget_if_done(self) -> None:
        if self._receiving.is_finished and self._sending.is_done:
            self._carrier.forget_stream(self.stream_id)
