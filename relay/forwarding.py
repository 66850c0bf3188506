"""Lend UDP circuits: `/piecework/forward/1`, whose messages are in `protocol/relay_messages.py`.

A circuit lives with the stream on which it was asked for. When that ends the circuit is freed, at
once if its owner said so; a broken stream leaves it a grace, for a home router that reboots.
"""

import asyncio
import logging
import time
from collections import Counter

from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.relay_messages import (
    FORWARD_BYTES_MAX,
    ForwardGrant,
    ForwardRequest,
    RefusalCode,
    Refused,
)
from relay.errors import RequestRefused, limit_reached
from relay.forwarder import Forwarder
from relay.requests import RequestGate
from relay.reservations import network_of
from relay.resources import CircuitLimits, ForwarderLimits
from transport.control.base import ControlStream
from transport.control.messages import read_message, write_message
from transport.errors import TransportError

__all__ = ["ForwardingService"]

log = logging.getLogger(__name__)


class ForwardingService:
    """Made by the composition root, which sets `serve` as the handler of FORWARD_PROTOCOL."""

    def __init__(
        self,
        forwarder: Forwarder,
        gate: RequestGate,
        limits: tuple[CircuitLimits, ForwarderLimits],
        *,
        host: str,
        ports: tuple[int, ...],
    ) -> None:
        """`host`: where the forwarder is announced; empty: where the asker reached the relay."""
        self._forwarder = forwarder
        self._gate = gate
        self._handshake_timeout_s = limits[0].handshake_timeout_s
        self._limits = limits[1]
        self._host = host
        self._ports = ports
        self._held: dict[bytes, ControlStream] = {}
        self._releases: dict[bytes, asyncio.TimerHandle] = {}
        """Circuits in their grace; their owners' allowances bound how many."""
        self._networks: dict[bytes, str] = {}
        """circuit -> the household that asked for it, as long as it is not freed."""
        self._of_network: Counter[str] = Counter()

    async def serve(self, stream: ControlStream) -> None:
        """Grant one circuit and hold it for as long as the stream is open."""
        try:
            self._gate.admit(stream.peer_id)
            with self._gate.pending(stream.peer_id):
                data = await read_message(
                    stream, FORWARD_BYTES_MAX, timeout_s=self._handshake_timeout_s
                )
            request = ForwardRequest.decode(data)
            _check(stream, request.other)
            grant = self._grant(stream, request.other)
        except RequestRefused as refused:
            self._gate.refused(refused)
            await self._refuse(stream, refused)
        except RemoteProtocolError as error:
            await self._refuse(stream, self._gate.malformed(error))
        except TransportError as error:
            log.debug("a forwarding stream ended before its request: %s", error)
            await stream.reset()
        else:
            await self._hold(stream, grant)

    async def sweep(self) -> None:
        """Tell the owners of circuits that ended for idleness: their streams are reset."""
        idle = [s for circuit, s in self._held.items() if not self._forwarder.has(circuit)]
        await asyncio.gather(*(stream.reset() for stream in idle))

    def close(self) -> None:
        """Free what is in its grace; the others end with their streams."""
        for circuit, timer in tuple(self._releases.items()):
            timer.cancel()
            self._release(circuit)

    def _grant(self, stream: ControlStream, other: PeerId) -> ForwardGrant:
        """Raises RequestRefused that names the limit."""
        network, per_host_max = network_of(stream.remote), self._limits.circuits_per_host_max
        if self._of_network[network] >= per_host_max:
            raise limit_reached("forwarder.circuits_per_host_max", per_host_max)
        granted = self._forwarder.allocate(stream.peer_id, other, time.monotonic())
        self._networks[granted.circuit] = network
        self._of_network[network] += 1
        return ForwardGrant(
            circuit=granted.circuit,
            secret_ours=granted.secrets[0],
            secret_theirs=granted.secrets[1],
            host=self._host,
            ports=self._ports,
            expires_at_s=0,
        )

    async def _hold(self, stream: ControlStream, grant: ForwardGrant) -> None:
        """Until the stream ends; whatever happens here, the circuit is freed then."""
        grace_s = 0.0
        self._held[grant.circuit] = stream
        try:
            await self._write(stream, grant)
            if await stream.read(1):
                self._gate.malformed(RemoteProtocolError("A granted stream only stays open."))
                await stream.reset()
        except TransportError as error:
            log.debug("a forwarding stream broke: %s", error)
            grace_s = self._limits.grace_s
            await stream.reset()
        finally:
            del self._held[grant.circuit]
            self._release_in(grant.circuit, grace_s)

    def _release_in(self, circuit: bytes, delay_s: float) -> None:
        if delay_s:
            loop = asyncio.get_running_loop()
            self._releases[circuit] = loop.call_later(delay_s, self._release, circuit)
        else:
            self._release(circuit)

    def _release(self, circuit: bytes) -> None:
        self._releases.pop(circuit, None)
        self._forwarder.release(circuit)
        network = self._networks.pop(circuit)
        self._of_network[network] -= 1
        if not self._of_network[network]:
            del self._of_network[network]

    async def _refuse(self, stream: ControlStream, refused: RequestRefused) -> None:
        try:
            await self._write(stream, Refused.because(refused.message, refused.code))
            await stream.close()
        except TransportError:
            await stream.reset()

    async def _write(self, stream: ControlStream, message: ForwardGrant | Refused) -> None:
        """Raises TransportError, also where the peer does not read."""
        try:
            async with asyncio.timeout(self._handshake_timeout_s):
                await write_message(stream, message.encode())
        except TimeoutError:
            raise TransportError("The peer does not read its answer.") from None


def _check(stream: ControlStream, other: PeerId) -> None:
    """Raises RequestRefused for who may not ask so."""
    if stream.is_relayed or other == stream.peer_id:
        raise RequestRefused(
            "permission_denied",
            "UDP circuits are for peers that are connected directly, and not to themselves.",
            RefusalCode.PERMISSION_DENIED,
        )
