"""The relays this node uses: reservations at its own, and UDP circuits at anybody's.

A peer is reached by *its* relay, so circuits are asked for wherever the peer has its slot.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Final

from protocol.errors import PieceworkError
from protocol.identity import PeerId
from protocol.relay_messages import (
    FORWARD_BYTES_MAX,
    FORWARD_PROTOCOL,
    ForwardGrant,
    ForwardRequest,
    Refused,
    decode_answer,
)
from transport.address import CircuitAddress, TcpAddress
from transport.control.base import ControlHost, ControlStream
from transport.control.messages import read_message, write_message
from transport.errors import RelayRefused
from transport.reach.attachment import RelayAttachment, RelayStatus

__all__ = ["Circuit", "Relays"]

RELAYS_MAX: Final = 4
"""Reservations at once: two would do, should one relay die."""

log = logging.getLogger(__name__)


class Circuit:
    """A UDP circuit that we asked for. It lives as long as its stream, which this watches."""

    def __init__(self, grant: ForwardGrant, relay: TcpAddress, stream: ControlStream) -> None:
        self.grant = grant
        self.host = grant.host or relay.host
        """The forwarder's address; its reflector listens there too."""
        self._stream = stream
        self._watching = asyncio.create_task(self._watch())

    @property
    def is_ended(self) -> bool:
        """Whether the relay took it back, was lost, or this is closed."""
        return self._watching.done()

    async def close(self) -> None:
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)
        await self._stream.close()

    async def _watch(self) -> None:
        try:
            await self._stream.read(1)  # nothing is said on it until it ends
        except PieceworkError as error:
            log.debug("a UDP circuit at %s ended: %s", self.host, error)
        await self._stream.reset()


class Relays:
    """Made and closed by the composition root; `on_change` after any slot came or went."""

    def __init__(
        self, control: ControlHost, relays: Sequence[TcpAddress], on_change: Callable[[], None]
    ) -> None:
        self._control = control
        self._attachments = [
            RelayAttachment(control, relay, on_change)
            for relay in tuple(dict.fromkeys(relays))[:RELAYS_MAX]
        ]

    @property
    def addresses(self) -> tuple[CircuitAddress, ...]:
        """Under which others reach us now."""
        return tuple(a.address for a in self._attachments if a.address is not None)

    @property
    def udp(self) -> tuple[tuple[str, int], ...]:
        """Forwarders and reflectors of our relays, as (host, port)."""
        return tuple(address for a in self._attachments for address in a.udp)

    @property
    def statuses(self) -> tuple[RelayStatus, ...]:
        return tuple(a.status for a in self._attachments)

    def start(self) -> None:
        for attachment in self._attachments:
            attachment.start()

    def check(self) -> None:
        """A path fell silent: find out which relays still answer."""
        for attachment in self._attachments:
            attachment.check()

    async def wait_settled(self, timeout_s: float) -> None:
        """Until every relay has been tried once, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                for attachment in self._attachments:
                    await attachment.wait_settled()

    async def allocate(self, relay: TcpAddress, other: PeerId, *, timeout_s: float) -> Circuit:
        """A UDP circuit to `other`. Raises TransportError (RelayRefused with the relay's reason),
        or RemoteProtocolError for an answer that is none."""
        connection = await self._control.connect(relay, timeout_s=timeout_s)
        stream = await connection.open_stream(FORWARD_PROTOCOL, timeout_s=timeout_s)
        try:
            await write_message(stream, ForwardRequest(other).encode(), timeout_s=timeout_s)
            data = await read_message(stream, FORWARD_BYTES_MAX, timeout_s=timeout_s)
            answer = decode_answer(ForwardGrant, data)
            if isinstance(answer, Refused):
                refusal = f"The relay lends no UDP circuit: {answer.error}"
                raise RelayRefused(refusal, answer.code)
        except BaseException:
            await stream.reset()
            raise
        return Circuit(answer, relay, stream)

    async def close(self) -> None:
        await asyncio.gather(*(attachment.close() for attachment in self._attachments))
