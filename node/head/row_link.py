"""The head's link to hop 0, or to its standby: a stream of its own for rows.

Apart from the hop's own stream, so that CLOSE and PROBE are not behind megabytes of a prompt.
"""

import asyncio

from protocol.errors import ErrorCode, RemoteProtocolError
from protocol.frame import (
    PROTOCOL,
    Attach,
    Opened,
    Replay,
    Step,
    Truncate,
    decode_frame,
    encode_frame,
)
from protocol.route import Hop
from transport.address import known_addresses
from transport.base import Host, Stream

__all__ = ["RowLink"]


class RowLink:
    """One epoch's link. `rows`: how many the other end had when it took the link."""

    def __init__(self, stream: Stream, rows: int) -> None:
        self.rows = rows
        self._stream = stream
        self._lock = asyncio.Lock()

    @classmethod
    async def attach(cls, host: Host, hop: Hop, attach: Attach, *, timeout_s: float) -> "RowLink":
        """Open a link. Raises TransportError, TimeoutError, or RemoteProtocolError for nonsense."""
        async with asyncio.timeout(timeout_s):
            addresses = known_addresses(hop.addresses)
            connection = await host.connect(hop.peer_id, addresses, timeout_s=timeout_s)
            stream = await connection.open_stream(PROTOCOL)
            try:
                await stream.send(*encode_frame(attach))
                data = await stream.receive()
                answer = decode_frame(data) if data else None
                if not isinstance(answer, Opened) or answer.epoch != attach.epoch:
                    raise RemoteProtocolError("It did not take the link for the session's rows.")
            except BaseException:
                stream.reset(ErrorCode.CANCELLED)
                raise
            return cls(stream, answer.cached_tokens)

    async def send(self, frame: Step | Replay | Truncate) -> None:
        """Whole frames in the order of the calls. Raises TransportError."""
        async with self._lock:
            await self._stream.send(*encode_frame(frame))

    def drop(self) -> None:
        """Let go; what is still under way is void."""
        self._stream.reset(ErrorCode.CANCELLED)
