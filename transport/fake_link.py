"""In-memory connections and streams between the hosts of a `FakeNetwork`."""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from protocol.errors import LocalProtocolError, PieceworkError
from protocol.identity import PeerId
from protocol.limits import FRAME_BYTES_MAX
from transport.base import Connection, PathKind, Stream, StreamStatistics
from transport.errors import PeerGone, ProtocolNotSupported, StreamReset, TransportError
from transport.framing import LENGTH_BYTES
from transport.quic.seams import ResetCode

if TYPE_CHECKING:
    from transport.testing import FakeHost

__all__ = ["UNREAD_BYTES_MAX", "FakeConnection", "FakeStream", "Line"]

UNREAD_BYTES_MAX: Final = 2 * 1024 * 1024
"""A sender waits while more than this is sent and not read, as over QUIC."""

_DATAGRAM_BYTES: Final = 1200


@dataclass(slots=True)
class Line:
    """What lies between two hosts; both directions alike."""

    delay_s: float = 0.0
    """One way."""
    loss: float = 0.0
    """Share of datagrams lost; each loss in turn costs its frame one more round trip."""
    is_cut: bool = False
    cut_count: int = 0
    held: list[Callable[[], None]] = field(default_factory=list)
    """Arrivals that wait for the line to heal."""

    def travel_s(self, size: int, dice: random.Random) -> float:
        """How long `size` bytes are under way, retransmissions included."""
        travel_s, datagrams = self.delay_s, 1 + size // _DATAGRAM_BYTES
        while self.loss and dice.random() < 1 - (1 - self.loss) ** datagrams:
            travel_s += 2 * self.delay_s
            datagrams = 1
        return travel_s


class FakeStream(Stream):
    """One end; what its `twin` does arrives here after the line's delay, in order."""

    def __init__(self, connection: "FakeConnection") -> None:
        self.twin: FakeStream = self
        self.unread_bytes = 0
        """Sent to this end and not yet taken from it."""
        self._connection = connection
        self._under_way: deque[Callable[[], None]] = deque()
        self._next_arrival_at = 0.0
        self._arrived: deque[bytes] = deque()
        self._is_ended = self._is_finished = False
        self._receive_error: PieceworkError | None = None
        self._send_error: PieceworkError | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._sent_count = self._received_count = self._sent_bytes = self._received_bytes = 0

    @property
    def peer_id(self) -> PeerId:
        return self._connection.peer_id

    @property
    def path_kind(self) -> PathKind:
        return self._connection.path_kind

    async def send(self, *parts: bytes) -> None:
        frame = b"".join(parts)
        if len(frame) > FRAME_BYTES_MAX:
            raise LocalProtocolError(f"A frame of {len(frame)} bytes is above the limit.")
        self._check_can_send()
        size = LENGTH_BYTES + len(frame)
        self._sent_count += 1
        self._sent_bytes += size
        self._connection.network.count_frame(size)
        self.twin.unread_bytes += size
        self.twin.arrive_later(size, lambda: self.twin.on_frame(frame))
        while self.twin.unread_bytes > UNREAD_BYTES_MAX:
            await self._wait()
            self._check_can_send()

    async def receive(self) -> bytes | None:
        while not self._arrived:
            if self._receive_error is not None:
                raise self._receive_error
            if self._is_ended:
                return None
            await self._wait()
        frame = self._arrived.popleft()
        size = LENGTH_BYTES + len(frame)
        self._received_count += 1
        self._received_bytes += size
        self.unread_bytes -= size
        self.twin.wake()
        return frame

    def finish(self) -> None:
        if not self._is_finished and self._send_error is None:
            self._is_finished = True
            self.twin.arrive_later(0, self.twin.on_end)

    def reset(self, code: int) -> None:
        ours = StreamReset(f"This side reset the stream with code {code}.", code)
        theirs = StreamReset(f"The peer reset the stream with code {code}.", code)
        self.fail(receiving=ours, sending=ours)
        self.twin.arrive_later(0, lambda: self.twin.fail(receiving=theirs, sending=theirs))

    def close(self) -> None:
        """The handler is done: finish, and refuse whatever the peer still sends."""
        self.finish()
        if not self._is_ended:
            code = ResetCode.NOT_READ
            self.fail(receiving=StreamReset("This side has closed the stream.", code))
            stopped = StreamReset(f"The peer stopped reading with code {code}.", code)
            self.twin.arrive_later(0, lambda: self.twin.fail(sending=stopped))

    def statistics(self) -> StreamStatistics:
        return StreamStatistics(
            self._sent_count,
            self._received_count,
            self._sent_bytes,
            self._received_bytes,
            self.twin.unread_bytes,
        )

    # What arrives

    def arrive_later(self, size: int, action: Callable[[], None]) -> None:
        """Do `action` here when `size` bytes have travelled, after all that was sent before."""
        loop = asyncio.get_running_loop()
        arrival_at = loop.time() + self._connection.travel_s(size)
        self._next_arrival_at = max(self._next_arrival_at, arrival_at)
        self._under_way.append(action)
        loop.call_at(self._next_arrival_at, self._arrive)

    def on_frame(self, frame: bytes) -> None:
        if self._receive_error is None:
            self._arrived.append(frame)
        else:
            self.unread_bytes -= LENGTH_BYTES + len(frame)
            self.twin.wake()
        self.wake()

    def on_end(self) -> None:
        self._is_ended = True
        self.wake()

    def fail(
        self, *, receiving: PieceworkError | None = None, sending: PieceworkError | None = None
    ) -> None:
        """Fail one or both directions; frames that are there already are dropped."""
        if receiving is not None and self._receive_error is None and not self._is_ended:
            self._receive_error = receiving
            self.unread_bytes -= sum(LENGTH_BYTES + len(frame) for frame in self._arrived)
            self._arrived.clear()
        self._send_error = self._send_error or sending
        self.wake()
        self.twin.wake()

    def on_gone(self, error: TransportError) -> None:
        """The connection is over; frames that arrived can still be received."""
        if not self._is_ended:
            self._receive_error = self._receive_error or error
        self._send_error = self._send_error or error
        self.wake()

    def wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _arrive(self) -> None:
        if self._connection.line.is_cut:
            self._connection.line.held.append(self._arrive)
        elif not self._connection.is_closed:
            self._under_way.popleft()()

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _check_can_send(self) -> None:
        if self._send_error is not None:
            raise self._send_error
        if self._is_finished:
            raise LocalProtocolError("The stream is finished: nothing more can be sent.")


class FakeConnection(Connection):
    """One end of a connection; `twin` is the other, at `there`."""

    def __init__(self, here: "FakeHost", there: "FakeHost", line: Line, kind: PathKind) -> None:
        self.here = here
        self.there = there
        self.line = line
        self.network = here.network
        self.twin: FakeConnection = self
        self.is_closed = False
        self._path_kind = kind
        self._streams: list[FakeStream] = []

    @property
    def peer_id(self) -> PeerId:
        return self.there.peer_id

    @property
    def path_kind(self) -> PathKind:
        return self._path_kind

    @property
    def remote(self) -> str:
        return str(self.there.addresses[0])

    async def open_stream(self, protocol: str) -> FakeStream:
        if self.is_closed:
            raise PeerGone("The connection is closed.")
        near, far = FakeStream(self), FakeStream(self.twin)
        near.twin, far.twin = far, near
        self._streams.append(near)
        self.twin._streams.append(far)
        far.arrive_later(0, lambda: self._serve(near, far, protocol))
        return near

    async def close(self) -> None:
        self.end(PeerGone("The connection is closed: closed by this side."))
        error = PeerGone("The connection is closed: closed by the peer.")
        asyncio.get_running_loop().call_later(self.line.delay_s, self.twin.end, error)

    def end(self, error: TransportError) -> None:
        """This end is over, and knows it."""
        if not self.is_closed:
            self.is_closed = True
            self.here.forget(self)
            for stream in self._streams:
                stream.on_gone(error)

    def travel_s(self, size: int) -> float:
        return self.line.travel_s(size, self.network.dice)

    def _serve(self, near: FakeStream, far: FakeStream, protocol: str) -> None:
        handlers = self.there.handlers
        if handlers.is_served(protocol):
            handlers.serve(far, far, protocol)
        else:
            error = ProtocolNotSupported(f"The peer does not speak '{protocol}'.")
            near.arrive_later(0, lambda: near.fail(receiving=error, sending=error))
