"""Optimistic multistream-select under Noise and under yamux, in the muxer's thread.

Who dials sends header, proposal and the first bytes of the protocol together, and reads the peer's
answers when it reads (libp2p specs, connections/README.md, "multistream-select"): no round trip.
"""

from typing import Any

import trio

from protocol.errors import PieceworkError, RemoteProtocolError
from transport.control.library import ReadWriteCloser
from transport.multistream import Initiator

__all__ = ["ProposedConnection", "read_agreement", "why_not_agreed"]


async def read_agreement(connection: ReadWriteCloser, initiator: Initiator) -> None:
    """Read the peer's answer, and not a byte more. `read(1)` waits for a byte, or for the end.

    Raises ProtocolNotSupported or RemoteProtocolError.
    """
    while not initiator.is_agreed:
        data = await connection.read(1)
        if not data:
            raise RemoteProtocolError("The peer ended the connection instead of naming a protocol.")
        initiator.feed(data)


async def why_not_agreed(
    connection: ReadWriteCloser, initiator: Initiator, timeout_s: float
) -> str:
    """An empty string once the peer has agreed; else why the connection is of no use."""
    try:
        with trio.fail_after(timeout_s):
            await read_agreement(connection, initiator)
    except PieceworkError as error:
        return error.message
    except trio.TooSlowError:
        return f"The peer did not agree to '{initiator.protocol}' within {timeout_s:g} s."
    except Exception as error:  # the library lets through whatever its codecs raise
        return f"The connection ended before the peer agreed to '{initiator.protocol}': {error!r}."
    return ""


class ProposedConnection(ReadWriteCloser):  # type: ignore[misc]
    """A connection on which `initiator.protocol` is spoken before the peer has agreed to it."""

    def __init__(self, below: ReadWriteCloser, initiator: Initiator) -> None:
        self._below = below
        self._initiator = initiator
        self._opening = initiator.opening

    async def read(self, n: int | None = None) -> bytes:
        """Raises ProtocolNotSupported or RemoteProtocolError where the peer does not agree."""
        await read_agreement(self._below, self._initiator)
        return bytes(await self._below.read(n))

    async def write(self, data: bytes) -> None:
        opening, self._opening = self._opening, b""
        await self._below.write(opening + data)

    async def close(self) -> None:
        await self._below.close()

    def get_remote_address(self) -> Any:
        return self._below.get_remote_address()
