"""Every workaround of a defect of py-libp2p 0.8.1 that we need.

Each has a test that shows the defect in the library, and one that ours is free of it. Numbers up to
D19 are the reference's; the others were found here. What the Swarm and BasicHost do wrong (D6, D7,
D11, D12, D13, D14) does not touch us: of the library only Noise, the upgrader and yamux are used.

D17  importing it replaces `QuicStreamSender.get_frame` of aioquic in the whole process
D18  its logging set-up throws away handlers and propagation of the logger `libp2p`
D20  a write on a full window fails after 5 s: a slow reader loses its stream
D21  a peer that sends more than its window is warned about, and buffered without bound
D22  a broken connection, or a reset, reads as a clean end of the stream; what had arrived is lost
D23  a cancelled write leaves half a frame on the connection, a cancelled read loses bytes
D24  a silent peer is pinged, but never given up
D25  acknowledgements are written by the task that reads: two full peers wait for each other
D26  a message that arrives in more than 101 pieces breaks its connection
D27  the lengths of handshake messages are not bounded: a stranger chooses our memory
D28  a stream that is reset with bytes unread keeps its place among 256 for a minute and more

D17 and D18 are mended in `library`, D26 and D27 by how `pipe` reads, D24 by `liveness`.
"""

import struct
from collections import deque
from contextlib import suppress
from typing import Any, Final

import trio

from transport.control.budget import ReceiveBudget
from transport.control.library import (
    FLAG_SYN,
    GO_AWAY_NORMAL,
    HEADER_SIZE,
    MAX_MESSAGE_SIZE,
    TYPE_GO_AWAY,
    TYPE_PING,
    YAMUX_HEADER_FORMAT,
    BaseLibp2pError,
    ConnectionClosedError,
    IOException,
    RawConnError,
    Yamux,
    YamuxStream,
)
from transport.control.liveness import Liveness
from transport.control.proposal import why_not_agreed
from transport.control.settings import INITIAL_WINDOW_BYTES, ControlSettings
from transport.errors import PeerGone, StreamReset
from transport.multistream import Initiator

__all__ = [
    "BoundedYamux",
    "close_muxed",
    "finish_muxed",
    "open_muxed",
    "read_muxed",
    "reset_muxed",
    "write_muxed",
]

_CLOSED: Final = "The connection closed."
_WINDOW_POLL_S: Final = (0.001, 0.02)
"""First and longest pause between looks at a full window: the library has no event for it."""


class _BudgetPassed(trio.TooSlowError):
    """The one kind of error on which the library's reading loop closes the connection."""


class BoundedYamux(Yamux):  # type: ignore[misc]
    """The library's yamux, with bounds on what a peer can make it hold (D21, D22, D24, D25)."""

    def __init__(
        self,
        secured: Any,
        peer_id: Any,
        pipe: Any,
        settings: ControlSettings,
        budget: ReceiveBudget,
        *,
        proposed: Initiator | None = None,
    ) -> None:
        """`proposed`: yamux itself, if the peer's answer to that is still to come."""
        super().__init__(secured, peer_id, is_initiator=secured.is_initiator)
        self._proposed = proposed
        self.settings = settings
        self.end_reason = _CLOSED
        self.liveness = Liveness(settings, pipe, self._ping, self._give_up)
        self._budget = budget
        self._unsent: deque[bytes] = deque()
        self._is_flushing = False
        self._remains: dict[int, tuple[bytearray, bool]] = {}

    async def start(self) -> None:
        try:
            await super().start()
        finally:
            self.event_shutting_down.set()
            self._keep_remains()
            self._budget.release(self)

    async def handle_incoming(self) -> None:
        """The reading loop; before it, the peer's answer to what was proposed."""
        reason, timeout_s = "", self.settings.handshake_timeout_s
        if self._proposed is not None:
            reason = await why_not_agreed(self.secured_conn, self._proposed, timeout_s)
        if reason:
            self.end_reason = reason if self.end_reason == _CLOSED else self.end_reason
            self.event_shutting_down.set()
            await self._cleanup_on_error()
        else:
            await super().handle_incoming()

    @property
    def held_bytes(self) -> int:
        return sum(map(len, self.stream_buffers.values()))

    def take_remains(self, stream_id: int, bytes_max: int) -> tuple[bytes, bool] | None:
        """What had come before the connection ended, and whether the stream had ended by then."""
        if stream_id not in self._remains:
            return None
        buffer, is_ended = self._remains[stream_id]
        data = bytes(buffer[:bytes_max])
        del buffer[:bytes_max]
        return data, is_ended

    async def close(self, error_code: int = GO_AWAY_NORMAL) -> None:
        """Say goodbye where that goes quickly, and end. (The library's waits for ever.)"""
        if not self.event_shutting_down.is_set():
            self._unsent.append(_header(TYPE_GO_AWAY, 0, error_code))
            with trio.move_on_after(self.settings.close_timeout_s), suppress(BaseLibp2pError):
                await self._flush(is_last=True)
        await self._cleanup_on_error()

    async def _cleanup_on_error(self) -> None:
        self._keep_remains()
        await super()._cleanup_on_error()

    def _keep_remains(self) -> None:
        """D22: the library is about to forget what it holds, and that some streams had ended."""
        for stream_id, stream in self.streams.items():
            if stream_id not in self._remains:
                buffer = self.stream_buffers.get(stream_id, bytearray())
                self._remains[stream_id] = (bytearray(buffer), stream.recv_closed)
                buffer.clear()

    async def _read_data_body(self, length: int) -> bytes:
        """D21: called for every DATA frame before its `length` bytes are read."""
        if not self._budget.can_receive(self, length):
            self.end_reason = "The peer sent more than its windows allow."
            raise _BudgetPassed
        return bytes(await super()._read_data_body(length))

    async def _measure_rtt_loop(self) -> None:
        await self.liveness.watch()  # D24

    async def _ping(self) -> None:
        with suppress(BaseLibp2pError):
            await self._write_frame(_header(TYPE_PING, FLAG_SYN, 0))

    async def _give_up(self, reason: str) -> None:
        self.end_reason = reason
        await self.secured_conn.close()

    async def _write_frame(self, data: bytes) -> None:
        """D25: frames without data are queued, and never keep their sender waiting."""
        if self.event_shutting_down.is_set():
            raise ConnectionClosedError("The connection is closed.")
        if len(data) > HEADER_SIZE:
            await self._write(data)
        elif len(self._unsent) >= self.settings.control_frames_max:
            self.end_reason = "The peer does not read its answers."
            raise RawConnError(self.end_reason)
        else:
            self._unsent.append(data)
            if not self._is_flushing and self._nursery is not None:
                self._is_flushing = True
                self._nursery.start_soon(self._flush)

    async def _flush(self, *, is_last: bool = False) -> None:
        try:
            while self._unsent:  # more may have come while the last were being written
                await self._write(b"", is_last=is_last)
        except BaseLibp2pError:
            await self.secured_conn.close()  # which ends the reading loop, and so all of it
        finally:
            self._is_flushing = False

    async def _write(self, data: bytes, *, is_last: bool = False) -> None:
        """D23: whoever is cancelled, the frame goes out whole; only a last one may be cut."""
        with trio.CancelScope(shield=not is_last):
            async with self._write_lock:
                frames = b"".join((*self._unsent, data))  # a stream's SYN before its data
                self._unsent.clear()
                if frames:
                    await self.secured_conn.write(frames)


async def open_muxed(muxed: BoundedYamux) -> YamuxStream:
    """A new stream. Raises PeerGone, also at the limit: nobody waits for a stream to end."""
    if len(muxed.streams) >= muxed.settings.streams_max:
        raise PeerGone(f"The connection has {len(muxed.streams)} streams, which is the limit.")
    try:
        # Cancelled half-way, the library would lose a slot for ever; nothing here takes long.
        with trio.CancelScope(shield=True):
            stream = await muxed.open_stream()
            muxed.liveness.expect_answer()
            return stream
    except BaseLibp2pError:
        raise PeerGone(muxed.end_reason) from None


async def read_muxed(stream: YamuxStream, bytes_max: int) -> bytes:
    """Up to `bytes_max` bytes; b"" where the peer has finished, and only there (D22).

    Loses nothing when cancelled (D23). Raises PeerGone or StreamReset.
    """
    muxed = stream.conn
    try:
        data = bytes(await muxed.read_stream(stream.stream_id, bytes_max))
    except BaseLibp2pError:
        remains = muxed.take_remains(stream.stream_id, bytes_max)
        if remains is not None and (remains[0] or remains[1]):
            return bytes(remains[0])
        if remains is None and stream.recv_closed and not stream.reset_received:
            return b""
        raise _ending(stream) from None
    await _widen(stream)
    return data


async def _widen(stream: YamuxStream) -> None:
    """Let the peer send as much again as was read, in halves of the window."""
    muxed, settings = stream.conn, stream.conn.settings
    is_wide = len(muxed.streams) <= settings.wide_streams_max
    window_bytes = settings.wide_window_bytes if is_wide else INITIAL_WINDOW_BYTES
    held_bytes = len(muxed.stream_buffers.get(stream.stream_id, b""))
    grant_bytes = window_bytes - stream.recv_window - held_bytes
    if grant_bytes >= window_bytes // 2 and not stream.recv_closed:
        stream.recv_window += grant_bytes
        with trio.CancelScope(shield=True), suppress(BaseLibp2pError):
            await stream.send_window_update(grant_bytes)


async def write_muxed(stream: YamuxStream, data: bytes) -> None:
    """Waits for the peer's window as long as it takes (D20). Raises PeerGone or StreamReset."""
    sent, pause_s = 0, _WINDOW_POLL_S[0]
    while sent < len(data):
        if stream.conn.event_shutting_down.is_set() or stream.closed or stream.send_closed:
            raise _ending(stream)
        size = min(stream.send_window, MAX_MESSAGE_SIZE - HEADER_SIZE, len(data) - sent)
        if size <= 0:
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, _WINDOW_POLL_S[1])
            continue
        try:
            await stream.write(data[sent : sent + size])
        except IOException:
            raise PeerGone(stream.conn.end_reason) from None
        except BaseLibp2pError:
            raise _ending(stream) from None
        sent, pause_s = sent + size, _WINDOW_POLL_S[0]


async def finish_muxed(stream: YamuxStream) -> None:
    """FIN; raises nothing."""
    with trio.CancelScope(shield=True), suppress(BaseLibp2pError):
        await stream.close()


async def reset_muxed(stream: YamuxStream) -> None:
    """RST; raises nothing. Wakes the stream's reader, whom the library would leave waiting."""
    muxed, reader_event = stream.conn, stream.conn.stream_events.get(stream.stream_id)
    with trio.CancelScope(shield=True), suppress(BaseLibp2pError):
        await stream.reset()
        async with muxed.streams_lock:  # D28: under it comes data, which nobody is to read any more
            muxed.stream_buffers.get(stream.stream_id, bytearray()).clear()
            muxed._finalize_stream_locked(stream, fully_closed=True)
    if reader_event is not None:
        reader_event.set()


async def close_muxed(stream: YamuxStream, linger_s: float) -> None:
    """FIN; then throw away what still comes, which no window lets grow, and RST if no end comes."""
    await finish_muxed(stream)
    with trio.move_on_after(linger_s), suppress(BaseLibp2pError):
        while await stream.conn.read_stream(stream.stream_id, MAX_MESSAGE_SIZE):
            pass
    await reset_muxed(stream)


def _ending(stream: YamuxStream) -> PeerGone | StreamReset:
    if stream.conn.event_shutting_down.is_set():
        return PeerGone(stream.conn.end_reason)
    return StreamReset("The stream was reset.", 0)


def _header(kind: int, flags: int, value: int) -> bytes:
    """A frame of the connection itself, of no stream."""
    return struct.pack(YAMUX_HEADER_FORMAT, 0, kind, flags, 0, value)
