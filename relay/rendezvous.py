"""The rendezvous: peers leave signed records under a name, and others find them there.

`/piecework/rendezvous/1`; the messages are those of `protocol/relay_messages.py`.
"""

import asyncio
import contextlib
import time

from protocol.errors import RemoteProtocolError, VerificationError
from protocol.identity import PeerId
from protocol.relay_messages import (
    RefusalCode,
    Refused,
)
from protocol.rendezvous_messages import (
    RENDEZVOUS_REQUEST_BYTES_MAX,
    Discover,
    Discovered,
    Register,
    Registered,
    RendezvousRequest,
    Unregister,
    decode_rendezvous_request,
)
from relay.errors import RequestRefused, limit_reached
from relay.records import Records
from relay.requests import RequestGate
from relay.resources import RendezvousLimits
from transport.control.base import ControlStream
from transport.control.messages import read_message, write_message
from transport.errors import PeerGone, TransportError

__all__ = ["RendezvousService"]


class RendezvousService:
    """Made by the composition root, which sets `serve` as the handler of RENDEZVOUS_PROTOCOL."""

    def __init__(self, limits: RendezvousLimits, gate: RequestGate) -> None:
        self.records = Records(limits)
        self._limits = limits
        self._gate = gate
        self._sending_count = 0

    async def serve(self, stream: ControlStream) -> None:
        """Answer request after request until the peer ends the stream, or is silent."""
        try:
            with self._gate.pending(stream.peer_id), contextlib.suppress(PeerGone):
                while True:
                    data = await read_message(
                        stream, RENDEZVOUS_REQUEST_BYTES_MAX, timeout_s=self._limits.idle_s
                    )
                    await self._write(stream, self._answer(stream.peer_id, data))
        except RequestRefused as refused:  # too many at once
            self._gate.refused(refused)
            await stream.reset()
        except (TransportError, RemoteProtocolError):
            await stream.reset()

    def _answer(self, peer: PeerId, data: bytes) -> Registered | Discovered | Refused:
        """What the peer gets; never an exception that a stranger can cause."""
        try:
            self._gate.admit(peer)
            if self._sending_count >= self._limits.answers_max:
                raise limit_reached("rendezvous.answers_max", self._limits.answers_max)
            return self._obey(peer, decode_rendezvous_request(data), time.time())
        except RequestRefused as error:
            refused = error
        except VerificationError as error:
            refused = RequestRefused("record_refused", error.message, RefusalCode.PERMISSION_DENIED)
        except RemoteProtocolError as error:
            refused = RequestRefused("malformed", error.message, RefusalCode.MALFORMED_MESSAGE)
        self._gate.refused(refused)
        return Refused.because(refused.message, refused.code)

    def _obey(
        self, peer: PeerId, request: RendezvousRequest, now_s: float
    ) -> Registered | Discovered:
        match request:
            case Register():
                return Registered(self.records.register(peer, request, now_s))
            case Unregister():
                self.records.unregister(peer, request.namespace)
                return Registered(0)
            case Discover():
                return self.records.discover(request, now_s)

    async def _write(
        self, stream: ControlStream, answer: Registered | Discovered | Refused
    ) -> None:
        """Raises TransportError, also where the peer does not read."""
        self._sending_count += 1
        try:
            async with asyncio.timeout(self._limits.send_timeout_s):
                await write_message(stream, answer.encode())
        except TimeoutError:
            raise TransportError("The peer does not read its answer.") from None
        finally:
            self._sending_count -= 1
