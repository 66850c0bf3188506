"""Whole messages on a control stream: 4 bytes of length, big-endian, then the message."""

import asyncio
from typing import Final

from protocol.errors import RemoteProtocolError
from transport.control.base import ControlStream
from transport.errors import PeerGone, TimedOut

__all__ = ["read_message", "write_message"]

_LENGTH_BYTES: Final = 4


async def write_message(
    stream: ControlStream, message: bytes, *, timeout_s: float | None = None
) -> None:
    """Raises PeerGone, StreamReset, or TimedOut when the peer does not take it in time (without a
    timeout the caller bounds the wait)."""
    try:
        async with asyncio.timeout(timeout_s):
            await stream.write(len(message).to_bytes(_LENGTH_BYTES, "big") + message)
    except TimeoutError:
        raise TimedOut(f"The peer took no message within {timeout_s:g} s.") from None


async def read_message(
    stream: ControlStream, bytes_max: int, *, timeout_s: float | None = None
) -> bytes:
    """The next message. Raises PeerGone at the end, RemoteProtocolError above `bytes_max`,
    TimedOut when it is not there in time (without a timeout the caller bounds the wait)."""
    try:
        async with asyncio.timeout(timeout_s):
            size = int.from_bytes(await _read_exactly(stream, _LENGTH_BYTES), "big")
            if size > bytes_max:
                raise RemoteProtocolError(f"A message of {size} bytes; at most {bytes_max}.")
            return await _read_exactly(stream, size)
    except TimeoutError:
        raise TimedOut(f"No message came within {timeout_s:g} s.") from None


async def _read_exactly(stream: ControlStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        more = await stream.read(count - len(data))
        if not more:
            raise PeerGone("The peer ended the stream.")
        data += more
    return bytes(data)
