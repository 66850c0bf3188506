"""CONNECT and SYNC on a control stream (protocol/reach.py)."""

from typing import Final, TypeVar

from protocol.errors import RemoteProtocolError
from protocol.reach import REACH_BYTES_MAX, Connect, Sync, decode_reach, encode_reach
from transport.control.base import ControlStream
from transport.control.messages import read_message, write_message

__all__ = ["REACH_PROTOCOL", "expect", "receive", "send"]

REACH_PROTOCOL: Final = "/piecework/reach/1"

SEND_TIMEOUT_S: Final = 4.0
"""A message fits into any window that is not full of what the peer does not read."""

M = TypeVar("M", Connect, Sync)


async def send(stream: ControlStream, message: Connect | Sync) -> None:
    """Raises PeerGone, StreamReset or TimedOut."""
    await write_message(stream, encode_reach(message), timeout_s=SEND_TIMEOUT_S)


async def receive(stream: ControlStream, *, timeout_s: float | None = None) -> Connect | Sync:
    """The next message that we know; raises as `read_message` does."""
    while True:
        data = await read_message(stream, REACH_BYTES_MAX, timeout_s=timeout_s)
        if (message := decode_reach(data)) is not None:
            return message


async def expect(stream: ControlStream, kind: type[M], *, timeout_s: float) -> M:
    """The next message, which must be of this kind."""
    message = await receive(stream, timeout_s=timeout_s)
    if not isinstance(message, kind):
        raise RemoteProtocolError(f"The peer sent a {type(message).__name__} out of turn.")
    return message
