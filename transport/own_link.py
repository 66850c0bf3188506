"""A host that can also be dialled by itself: streams to this node's own handlers, in memory.

A machine that drives a session over its own layers is its own neighbour. Sockets have nothing to
add there, and a data socket refuses to dial itself. Frames are handed over as they are, and a
writer waits for a slow reader as on any other stream.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from protocol.errors import LocalProtocolError, PieceworkError
from protocol.identity import PeerId
from protocol.limits import FRAME_BYTES_MAX
from transport.address import AnyAddress
from transport.base import Connection, Host, PathKind, Stream, StreamHandler, StreamStatistics
from transport.errors import PeerGone, ProtocolNotSupported, StreamReset
from transport.handlers import Handlers
from transport.quic.seams import ResetCode

__all__ = ["OwnLinkHost"]

UNREAD_BYTES_MAX: Final = 2 * 1024 * 1024
"""A sender waits while more than this is sent and not read, as on the data socket."""


class OwnLinkHost(Host):
    """Another host with this one way more. Closing it closes the other."""

    def __init__(self, outer: Host) -> None:
        self._outer = outer
        self._handlers = Handlers()
        self._connection = _OwnConnection(outer.peer_id, self._handlers)

    @property
    def peer_id(self) -> PeerId:
        return self._outer.peer_id

    @property
    def addresses(self) -> tuple[AnyAddress, ...]:
        return self._outer.addresses

    def set_handler(self, protocol: str, handler: StreamHandler | None) -> None:
        self._handlers.set(protocol, handler)
        self._outer.set_handler(protocol, handler)

    async def connect(
        self, peer_id: PeerId, addresses: Sequence[AnyAddress], *, timeout_s: float
    ) -> Connection:
        if peer_id == self.peer_id:
            return self._connection
        return await self._outer.connect(peer_id, addresses, timeout_s=timeout_s)

    def connections(self) -> tuple[Connection, ...]:
        """Those with others."""
        return self._outer.connections()

    async def close(self) -> None:
        await self._connection.close()
        await self._handlers.cancel()
        await self._outer.close()


class _OwnConnection(Connection):
    def __init__(self, peer_id: PeerId, handlers: Handlers) -> None:
        self._peer_id = peer_id
        self._handlers = handlers
        self._streams: set[_OwnStream] = set()
        self._is_closed = False

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    @property
    def path_kind(self) -> PathKind:
        return PathKind.LAN

    @property
    def remote(self) -> str:
        return "this machine"

    async def open_stream(self, protocol: str) -> Stream:
        if self._is_closed:
            raise PeerGone("This host is closed.")
        near, far = _OwnStream(self), _OwnStream(self)
        near.twin, far.twin = far, near
        if self._handlers.is_served(protocol):
            self._streams |= {near, far}
            self._handlers.serve(far, far, protocol)
        else:
            near.fail(ProtocolNotSupported(f"This machine does not serve '{protocol}' now."))
        return near

    async def close(self) -> None:
        self._is_closed = True
        for stream in list(self._streams):
            stream.fail(PeerGone("This host is closed."))

    def forget(self, stream: "_OwnStream") -> None:
        self._streams.discard(stream)


class _OwnStream(Stream):
    """One end; what its `twin` sends is in `_arrived` at once."""

    def __init__(self, connection: _OwnConnection) -> None:
        self.twin: _OwnStream = self
        self._connection = connection
        self._arrived: deque[bytes] = deque()
        self._unread_bytes = 0
        self._is_ended = self._is_finished = False
        self._receive_error: PieceworkError | None = None
        self._send_error: PieceworkError | None = None
        self._changed = asyncio.Event()
        self._sent = self._received = self._sent_bytes = self._received_bytes = 0

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
        self._sent += 1
        self._sent_bytes += len(frame)
        twin = self.twin
        if twin._receive_error is None:
            twin._arrived.append(frame)
            twin._unread_bytes += len(frame)
            twin._changed.set()
        while twin._unread_bytes > UNREAD_BYTES_MAX:
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
        self._unread_bytes -= len(frame)
        self._received += 1
        self._received_bytes += len(frame)
        self.twin._changed.set()
        return frame

    def finish(self) -> None:
        if self._is_finished or self._send_error is not None:
            return
        self._is_finished = True
        self.twin._is_ended = True
        self.twin._changed.set()
        self._forget_if_over()

    def reset(self, code: int) -> None:
        self.fail(StreamReset(f"This side reset the stream with code {code}.", code))
        self.twin.fail(StreamReset(f"The peer reset the stream with code {code}.", code))

    def close(self) -> None:
        """The handler is done: finish, and refuse whatever is still sent."""
        self.finish()
        if not self._is_ended:
            code = int(ResetCode.NOT_READ)
            self._receive_error = StreamReset("This side has closed the stream.", code)
            self._drop_unread()
            stopped = StreamReset(f"The peer stopped reading with code {code}.", code)
            self.twin._send_error = self.twin._send_error or stopped
            self.twin._changed.set()
        self._forget_if_over()

    def statistics(self) -> StreamStatistics:
        return StreamStatistics(
            self._sent, self._received, self._sent_bytes, self._received_bytes,
            self.twin._unread_bytes,
        )  # fmt: skip

    def fail(self, error: PieceworkError) -> None:
        """Both directions, as this end sees them; what has arrived is dropped."""
        if not self._is_ended and self._receive_error is None:
            self._receive_error = error
            self._drop_unread()
        self._send_error = self._send_error or error
        self._changed.set()
        self.twin._changed.set()
        self._forget_if_over()

    def _drop_unread(self) -> None:
        self._arrived.clear()
        self._unread_bytes = 0

    def _forget_if_over(self) -> None:
        for end in (self, self.twin):
            sending_over = end._is_finished or end._send_error is not None
            if sending_over and (end._is_ended or end._receive_error is not None):
                self._connection.forget(end)

    def _check_can_send(self) -> None:
        if self._send_error is not None:
            raise self._send_error
        if self._is_finished:
            raise LocalProtocolError("The stream is finished: nothing more can be sent.")

    async def _wait(self) -> None:
        """Until anything changed at this end. A reader and a writer may wait at once."""
        self._changed.clear()
        await self._changed.wait()
