"""A host that is watched, and that misbehaves on request: around any Host, with its interface.

What passes is counted as the harness needs it: which sessions open here, how many rows of results
came to a head, how many rows were replayed to a hop. Mischief is what no honest hop sends.
"""

import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from protocol.frame import Attach, FrameType, LinkRole, Open, decode_frame
from protocol.identity import PeerId
from protocol.limits import FRAME_BYTES_MAX
from protocol.tensor import payload_hash
from transport.address import AnyAddress
from transport.base import Connection, Host, PathKind, Stream, StreamHandler, StreamStatistics

__all__ = ["SESSIONS_REMEMBERED_MAX", "WatchedHost", "forged_result"]

SESSIONS_REMEMBERED_MAX: Final = 64
ROWS: Final = (FrameType.STEP, FrameType.RESULT, FrameType.REPLAY)
_SESSION, _EPOCH, _POSITION, _COUNT = slice(4, 20), slice(20, 24), slice(24, 28), slice(28, 30)
_HASH, _PAYLOAD = slice(36, 68), 68
"""Where a rows frame has its fields: the layout in protocol/frame.py."""


class WatchedHost(Host):
    """Told as they come: `on_open` of every OPEN, `on_replay` of rows replayed to here."""

    def __init__(self, inner: Host) -> None:
        self.inner = inner
        self.on_open: Callable[[Open], None] | None = None
        self.on_replay: Callable[[str, int], None] | None = None
        """(session, rows)"""
        self.result_rows: Counter[str] = Counter()
        """By session: rows of steps whose results came here."""
        self._lines: OrderedDict[tuple[bytes, bool], WatchedStream] = OrderedDict()
        """The newest stream of a session to its head (True) and onward (False)."""

    @property
    def peer_id(self) -> PeerId:
        return self.inner.peer_id

    @property
    def addresses(self) -> tuple[AnyAddress, ...]:
        return self.inner.addresses

    def set_handler(self, protocol: str, handler: StreamHandler | None) -> None:
        if handler is None:
            self.inner.set_handler(protocol, None)
            return
        given = handler

        async def watched(stream: Stream) -> None:
            await given(WatchedStream(self, stream))

        self.inner.set_handler(protocol, watched)

    async def connect(
        self, peer_id: PeerId, addresses: Sequence[AnyAddress], *, timeout_s: float
    ) -> Connection:
        inner = await self.inner.connect(peer_id, addresses, timeout_s=timeout_s)
        return WatchedConnection(self, inner)

    def connections(self) -> tuple[Connection, ...]:
        return tuple(WatchedConnection(self, inner) for inner in self.inner.connections())

    async def close(self) -> None:
        await self.inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def line(self, session_id: bytes, *, to_head: bool) -> "WatchedStream | None":
        return self._lines.get((session_id, to_head))

    def remember(self, stream: "WatchedStream", session_id: bytes, *, to_head: bool) -> None:
        self._lines[session_id, to_head] = stream
        self._lines.move_to_end((session_id, to_head))
        while len(self._lines) > 2 * SESSIONS_REMEMBERED_MAX:
            self._lines.popitem(last=False)


class WatchedConnection(Connection):
    """What else a kind of connection can do is passed through."""

    def __init__(self, host: WatchedHost, inner: Connection) -> None:
        self._host = host
        self._inner = inner

    @property
    def peer_id(self) -> PeerId:
        return self._inner.peer_id

    @property
    def path_kind(self) -> PathKind:
        return self._inner.path_kind

    @property
    def remote(self) -> str:
        return self._inner.remote

    async def open_stream(self, protocol: str) -> Stream:
        return WatchedStream(self._host, await self._inner.open_stream(protocol))

    async def close(self) -> None:
        await self._inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class WatchedStream(Stream):
    """Counts what passes; `spoil` makes the next rows frame that is sent a lie."""

    def __init__(self, host: WatchedHost, inner: Stream) -> None:
        self._host = host
        self._inner = inner
        self._spoiled: tuple[str, Random] | None = None

    @property
    def peer_id(self) -> PeerId:
        return self._inner.peer_id

    @property
    def path_kind(self) -> PathKind:
        return self._inner.path_kind

    async def send(self, *parts: bytes) -> None:
        kind = parts[0][0]
        if kind == FrameType.ATTACH:
            frame = decode_frame(b"".join(parts))
            if isinstance(frame, Attach) and frame.role is LinkRole.STEPS:
                self._host.remember(self, frame.session_id, to_head=False)
        elif self._spoiled is not None and kind in ROWS:
            (how, rng), self._spoiled = self._spoiled, None
            if (lie := _lie(b"".join(parts), how, rng)) is not None:
                await self._inner.send(lie)
            return
        await self._inner.send(*parts)

    async def receive(self) -> bytes | None:
        data = await self._inner.receive()
        if data:
            self._note(data)
        return data

    def finish(self) -> None:
        self._inner.finish()

    def reset(self, code: int) -> None:
        self._inner.reset(code)

    def statistics(self) -> StreamStatistics:
        return self._inner.statistics()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def misbehave(self, how: str, seed: int, forged: bytes | None) -> None:
        """Now where that can be done now, else with the next rows.

        `forged`: a frame to spoil and send at once, on a stream that carries no rows.
        """
        rng = Random(seed)
        inner: Any = self._inner
        if how == "noise":
            kind = bytes((rng.choice(list(FrameType)),))
            await inner.send(kind + rng.randbytes(rng.randrange(200)))
        elif how == "oversized":
            # the length alone, of a frame that no honest side announces: no Stream sends that
            too_large = FRAME_BYTES_MAX + 1 + rng.randrange(2**31)
            inner._carrier.write(inner.stream_id, too_large.to_bytes(4, "big"))
        elif how == "reset":
            inner.reset(rng.randrange(1, 100))
        elif forged is not None:
            if (lie := _lie(forged, how, rng)) is not None:
                await inner.send(lie)
        else:
            self._spoiled = how, rng

    def _note(self, data: bytes) -> None:
        match data[0]:
            case FrameType.OPEN:
                frame = decode_frame(data)
                if isinstance(frame, Open):
                    self._host.remember(self, frame.session_id, to_head=True)
                    if self._host.on_open is not None:
                        self._host.on_open(frame)
            case FrameType.RESULT:
                self._host.result_rows[data[_SESSION].hex()] += _rows(data)
            case FrameType.REPLAY if self._host.on_replay is not None:
                self._host.on_replay(data[_SESSION].hex(), _rows(data))


def forged_result(session_id: bytes, epoch: int) -> bytes:
    """A result, well made, from a hop that has none to send."""
    payload = os.urandom(4)
    header = bytes((FrameType.RESULT, 2, 0, 0)) + session_id + epoch.to_bytes(4, "big")
    counts = b"\x00\x00\x00\x09" + b"\x00\x01" + b"\x00\x01" + bytes(4)
    return header + counts + payload_hash(payload) + payload


def _rows(data: bytes) -> int:
    return int.from_bytes(data[_COUNT], "big")


def _lie(frame: bytes, how: str, rng: Random) -> bytes | None:
    """What is sent in place of an honest rows frame; None: nothing at all."""
    if how == "swallow":
        return None
    data = bytearray(frame)
    match how:
        case "hash":
            data[_PAYLOAD if len(data) > _PAYLOAD else _HASH.start] ^= 0xFF
        case "position":
            position = int.from_bytes(data[_POSITION], "big") + rng.choice((-1, 1, 1000))
            data[_POSITION] = max(0, position).to_bytes(4, "big")
        case "epoch":
            epoch = int.from_bytes(data[_EPOCH], "big") + rng.choice((1, 7, 2**31))
            data[_EPOCH] = epoch.to_bytes(4, "big")
        case "session":
            data[_SESSION] = rng.randbytes(16)
        case "short":
            del data[rng.randrange(1, len(data)) :]
        case _:
            raise ValueError(f"There is no nonsense called {how}.")
    return bytes(data)
