"""The dialling side's signalling stream to one peer: by whichever relay of his works, kept open.

One task reads it for as long as it lives, so that no message is cut in two. An answer goes to the
round that waits for it; any other CONNECT is the peer asking for a round.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from protocol.errors import PieceworkError, RemoteProtocolError
from protocol.identity import PeerId
from protocol.reach import Connect, Sync
from transport.address import CircuitAddress
from transport.control.base import ControlConnection, ControlHost, ControlStream
from transport.errors import Attempt, DialFailed, PeerGone, TimedOut
from transport.reach.messages import REACH_PROTOCOL, receive, send

__all__ = ["Signalling"]

SIGNAL_TIMEOUT_S: Final = 4.0
"""For each step by way of the relay: dial, stream, answer."""

AGAIN_TIMEOUT_S: Final = 1.5
"""The same when a path has died: what is slow then is mostly a connection that is dead as well."""

log = logging.getLogger(__name__)


class Signalling:
    """Owned by one initiator. `on_asked`: the peer was heard, and whether he asks for a round."""

    def __init__(
        self,
        control: ControlHost,
        peer_id: PeerId,
        circuits: Sequence[CircuitAddress],
        on_asked: Callable[[bool], None],
    ) -> None:
        """`circuits`: the peer's relayed addresses, best first."""
        self.addresses = tuple(circuits)
        """The one that worked last is the first."""
        self.connection: ControlConnection | None = None
        self.timeout_s = SIGNAL_TIMEOUT_S
        self._control = control
        self._peer_id = peer_id
        self._on_asked = on_asked
        self._stream: ControlStream | None = None
        self._listening: asyncio.Task[None] | None = None
        self._answer: asyncio.Future[Connect] | None = None
        self._round = 0

    async def open(self) -> None:
        """Have a stream, the old one or a new one. Raises DialFailed with every address."""
        if self._stream is not None and self.connection is not None:
            if not self.connection.is_closed:
                return
            await self.drop()
        attempts: list[Attempt] = []
        for address in self.addresses:
            began = monotonic()
            try:
                self.connection = await self._control.connect(address, timeout_s=self.timeout_s)
                stream = await self.connection.open_stream(REACH_PROTOCOL, timeout_s=self.timeout_s)
            except PieceworkError as error:
                attempts += _attempts(error, address, monotonic() - began)
                await self._hang_up()
            else:
                self.addresses = (address, *(a for a in self.addresses if a != address))
                self._stream = stream
                self._listening = asyncio.create_task(self._listen(stream))
                return
        raise DialFailed(str(self._peer_id), tuple(attempts))

    async def exchange(self, own: Connect) -> Connect:
        """The peer's CONNECT of the same round. Raises TransportError or RemoteProtocolError."""
        if self._stream is None:
            raise PeerGone("The signalling stream has ended.")
        self._round = own.round
        answer: asyncio.Future[Connect] = asyncio.get_running_loop().create_future()
        self._answer = answer
        try:
            async with asyncio.timeout(self.timeout_s):
                await send(self._stream, own)
                return await answer
        except TimeoutError:
            raise TimedOut("The peer did not answer by way of its relay.") from None
        finally:
            self._answer = None
            answer.cancel()
            self.timeout_s = AGAIN_TIMEOUT_S

    async def sync(self) -> None:
        """Both begin to punch. Raises as `exchange` does."""
        if self._stream is None:
            raise PeerGone("The signalling stream has ended.")
        await send(self._stream, Sync(self._round))

    async def drop(self, *, keep_connection: bool = False) -> None:
        """Give the stream up, and the connection below, so that the next `open` dials."""
        listening, self._listening = self._listening, None
        stream, self._stream = self._stream, None
        if listening is not None:
            listening.cancel()
        if stream is not None:
            await stream.reset()  # at once: whoever is cancelled here has given it up already
        if listening is not None:
            await asyncio.gather(listening, return_exceptions=True)
        if not keep_connection:
            await self._hang_up()

    async def _hang_up(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            await connection.close()

    async def _listen(self, stream: ControlStream) -> None:
        try:
            while True:
                self._take(await receive(stream))
        except PieceworkError as error:
            log.debug("the signalling stream to %s ended: %s", self._peer_id.short, error)
            if self._stream is stream:
                self._stream = None
            if self._answer is not None and not self._answer.done():
                self._answer.set_exception(error)
            await stream.reset()

    def _take(self, message: Connect | Sync) -> None:
        if isinstance(message, Sync):
            raise RemoteProtocolError("The peer sent a SYNC out of turn.")
        if self._answer is None:
            self._on_asked(True)
            return
        self._on_asked(False)  # what he asked for before is overtaken by the round under way
        if message.round == self._round and not self._answer.done():
            self._answer.set_result(message)


def _attempts(
    error: PieceworkError, address: CircuitAddress, elapsed_s: float
) -> tuple[Attempt, ...]:
    if isinstance(error, DialFailed):
        return error.attempts
    return (Attempt(str(address), error.message, elapsed_s),)
