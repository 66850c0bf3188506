"""All streams of one connection: finds them by id, carries their bytes to and from aioquic."""

from collections.abc import Callable

from aioquic.quic import events

from protocol.identity import PeerId
from transport.base import PathKind
from transport.errors import TransportError
from transport.multistream import Initiator, Responder
from transport.quic.private import QuicCore
from transport.quic.seams import ConnectionOwner, LinkFacts
from transport.quic.settings import QuicSettings
from transport.quic.stream import QuicStream

__all__ = ["StreamTable"]


class StreamTable:
    """The `StreamCarrier` of its streams; owned by one connection, silent once that is closed."""

    def __init__(
        self,
        core: QuicCore,
        link: LinkFacts,
        owner: ConnectionOwner,
        settings: QuicSettings,
        schedule_transmit: Callable[[], None],
    ) -> None:
        self.settings = settings
        self._core = core
        self._link = link
        self._owner = owner
        self._schedule_transmit = schedule_transmit
        self._streams: dict[int, QuicStream] = {}
        self._waiting_for_room: set[int] = set()

    @property
    def peer_id(self) -> PeerId:
        return self._link.peer_id

    @property
    def path_kind(self) -> PathKind:
        return self._link.path_kind

    @property
    def is_busy(self) -> bool:
        """Whether any stream is open: somebody waits for this peer, or may."""
        return bool(self._streams)

    def open(self, protocol: str) -> QuicStream:
        """A new stream of ours. Raises TransportError at the limit."""
        if sum(stream.is_ours for stream in self._streams.values()) >= self.settings.streams_max:
            raise TransportError(
                f"{self.settings.streams_max} streams to {self.peer_id.short} are open already."
            )
        stream_id = self._core.get_next_available_stream_id()
        stream = self._streams[stream_id] = QuicStream(self, stream_id, Initiator(protocol))
        return stream

    # What the connection tells

    def on_event(
        self,
        event: events.StreamDataReceived | events.StreamReset | events.StopSendingReceived,
    ) -> None:
        stream = self._streams.get(event.stream_id)
        if isinstance(event, events.StopSendingReceived):
            if stream is not None:
                stream.on_stop(event.error_code)
            return
        if stream is None:
            stream = QuicStream(self, event.stream_id, Responder(self._owner.is_served))
            self._streams[event.stream_id] = stream
        if isinstance(event, events.StreamReset):
            stream.on_reset(event.error_code, self._core.arrived_bytes(event.stream_id))
        else:
            stream.on_data(event.data, is_last=event.end_stream)

    def on_acknowledged(self) -> None:
        """Something may have been acknowledged: senders below the limit go on."""
        limit = self.settings.unacknowledged_bytes_max
        for stream_id in list(self._waiting_for_room):
            if self._core.unacknowledged_bytes(stream_id) <= limit:
                self._waiting_for_room.discard(stream_id)
                self._streams[stream_id].on_room()

    def on_tick(self, now: float) -> None:
        for stream in list(self._streams.values()):
            stream.on_tick(now)

    def on_gone(self, error: TransportError) -> None:
        streams, self._streams = list(self._streams.values()), {}
        self._waiting_for_room.clear()
        for stream in streams:
            stream.on_gone(error)

    # What the streams ask

    def is_writable(self, stream_id: int) -> bool:
        return not self._link.is_closed and self._core.is_writable(stream_id)

    def unacknowledged_bytes(self, stream_id: int) -> int:
        return self._core.unacknowledged_bytes(stream_id)

    def write(self, stream_id: int, data: bytes, *, is_last: bool = False) -> None:
        if self.is_writable(stream_id):
            self._core.send_stream_data(stream_id, data, end_stream=is_last)
            self._schedule_transmit()

    def consume(self, stream_id: int, count: int) -> None:
        if self._core.consume(stream_id, count):
            self._schedule_transmit()

    def reset_stream(self, stream_id: int, code: int) -> None:
        if not self._link.is_closed and self._core.is_known(stream_id):
            self._core.reset_stream(stream_id, code)
            self._schedule_transmit()

    def stop_stream(self, stream_id: int, code: int) -> None:
        if not self._link.is_closed and self._core.is_known(stream_id):
            self._core.stop_stream(stream_id, code)
            self._schedule_transmit()

    def wait_for_room(self, stream_id: int) -> None:
        self._waiting_for_room.add(stream_id)

    def accept_stream(self, stream: QuicStream, protocol: str) -> None:
        self._owner.on_stream(stream, protocol)

    def forget_stream(self, stream_id: int) -> None:
        self._streams.pop(stream_id, None)
        self._waiting_for_room.discard(stream_id)
