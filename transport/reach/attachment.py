"""This node's slot at one relay: reserved, renewed, tested, and taken again after anything.

A renewal every few seconds does three things: it keeps the reservation, it keeps the NAT's mapping
of the TCP connection, and it notices a connection that died without a word (a router rebooted).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from typing import Any, Final

from protocol.errors import PieceworkError
from protocol.relay_messages import FORWARD_BYTES_MAX, WHERE_PROTOCOL, Refused, Where, decode_answer
from transport.address import CircuitAddress, TcpAddress
from transport.control.base import ControlConnection, ControlHost
from transport.control.messages import read_message
from transport.errors import RelayRefused

__all__ = ["RelayAttachment", "RelayState", "RelayStatus"]

RESERVE_TIMEOUT_S: Final = 5.0
"""A dial over the worst home line, with Noise and yamux: eight round trips of half a second."""

RENEW_S: Final = 45.0
"""Under every expiry, and under the minutes after which careless routers forget a TCP mapping."""

CHECK_TIMEOUT_S: Final = 0.8
"""When a path has just died: a relay that does not answer by then is dialled anew."""

CHECK_GAP_S: Final = 0.5
"""A renewal that came through so lately is answer enough, whoever asks."""

LOST_SOON_S: Final = 5.0
"""A connection that ends so soon after it got a slot counts as a failure."""

BACKOFF_S: Final = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Between attempts: a rebooting router is back within seconds, a dead relay is not hammered."""

log = logging.getLogger(__name__)


class RelayState(StrEnum):
    CONNECTING = "connecting"
    RESERVED = "reserved"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """For status pages and `doctor`. `reason` says why it is not reserved."""

    relay: TcpAddress
    state: RelayState
    reason: str
    renew_s: float
    """How long the last successful renewal took: one round trip, once connected."""


class RelayAttachment:
    """Owned by `Relays`; one task from `start` to `close`."""

    def __init__(
        self, control: ControlHost, relay: TcpAddress, on_change: Callable[[], None]
    ) -> None:
        """`on_change` is called when the reservation comes, goes or comes back."""
        self.relay = relay
        self.address: CircuitAddress | None = None
        """Under which others reach us by this relay; None without a reservation."""
        self.udp: tuple[tuple[str, int], ...] = ()
        """Its forwarder's and reflector's addresses; empty while unknown, or if it has none."""
        self._control = control
        self._on_change = on_change
        self._state, self._reason = RelayState.CONNECTING, ""
        self._renew_s, self._renewed_at = 0.0, 0.0
        self._poke = asyncio.Event()
        self._settled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def status(self) -> RelayStatus:
        return RelayStatus(self.relay, self._state, self._reason, self._renew_s)

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep())
        self._task.add_done_callback(self._on_end)

    def check(self) -> None:
        """Something went silent: test the connection now, and take a new one if it is dead."""
        if self._state is RelayState.RESERVED and monotonic() - self._renewed_at < CHECK_GAP_S:
            return
        self._poke.set()

    async def wait_settled(self) -> None:
        """Until the first attempt is over, well or badly."""
        await self._settled.wait()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        failures = losses = 0
        while True:
            # Only a connection that is there is tested in a hurry; a new one takes its time.
            is_in_doubt = self._poke.is_set() and self.address is not None
            self._poke.clear()
            is_reserved = await self._reserve(CHECK_TIMEOUT_S if is_in_doubt else RESERVE_TIMEOUT_S)
            self._settled.set()
            failures = 0 if is_reserved else failures + 1
            pause_s = RENEW_S if is_reserved else BACKOFF_S[min(failures, len(BACKOFF_S)) - 1]
            if not is_reserved:
                await asyncio.sleep(BACKOFF_S[0])  # however often somebody asks for a check
                pause_s -= BACKOFF_S[0]
                if await self._is_poked(pause_s):
                    failures = 0  # whoever asked for a check is waiting: begin with short pauses
            elif await self._is_lost(pause_s):
                # The slot went with its connection. A relay that only takes us to drop us waits.
                losses = losses + 1 if monotonic() - self._renewed_at < LOST_SOON_S else 0
                await asyncio.sleep(BACKOFF_S[min(losses, len(BACKOFF_S) - 1)])

    async def _is_poked(self, timeout_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                return await self._poke.wait()
        return False

    async def _is_lost(self, timeout_s: float) -> bool:
        """Whether a connection to the relay ended before somebody poked, or the time was over."""
        poked = asyncio.create_task(self._poke.wait())
        ends = [asyncio.create_task(each.wait_closed()) for each in self._connections()]
        waits: list[asyncio.Task[Any]] = [poked, *ends]
        try:
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            return not poked.done() and any(end.done() for end in ends)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _reserve(self, timeout_s: float) -> bool:
        began = monotonic()
        try:
            reservation = await self._control.reserve(self.relay, timeout_s=timeout_s)
        except RelayRefused as error:
            self._set(RelayState.REFUSED, error.message, None)
            return False
        except PieceworkError as error:
            await self._drop()
            self._set(RelayState.UNREACHABLE, error.message, None)
            return False
        self._renewed_at = monotonic()
        self._renew_s = self._renewed_at - began
        self._poke.clear()  # whoever asked meanwhile has the answer
        is_new = self.address is None
        self._set(RelayState.RESERVED, "", reservation.address)
        if is_new or not self.udp:
            await self._ask_where()  # a relay that came back may have other ports
        return True

    async def _ask_where(self) -> None:
        """A relay of another make does not know the question, and has no UDP side for us."""
        try:
            where = await self._where()
        except PieceworkError as error:
            log.info("relay %s has no UDP side: %s", self.relay.peer_id.short, error)
            return
        host = where.host or self.relay.host
        udp = tuple((host, port) for port in where.ports)
        if udp != self.udp:
            self.udp = udp
            self._on_change()

    async def _where(self) -> Where:
        connection = await self._control.connect(self.relay, timeout_s=RESERVE_TIMEOUT_S)
        stream = await connection.open_stream(WHERE_PROTOCOL, timeout_s=RESERVE_TIMEOUT_S)
        try:
            data = await read_message(stream, FORWARD_BYTES_MAX, timeout_s=RESERVE_TIMEOUT_S)
            answer = decode_answer(Where, data)
        finally:
            await stream.reset()
        if isinstance(answer, Refused):
            raise RelayRefused(f"The relay does not say where: {answer.error}", answer.code)
        return answer

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            log.error("relay %s is kept no more", self.relay, exc_info=task.exception())

    async def _drop(self) -> None:
        """Close what may be a dead connection, so that the next attempt dials."""
        for connection in self._connections():
            await connection.close()

    def _connections(self) -> list[ControlConnection]:
        relay = self.relay.peer_id
        return [c for c in self._control.connections() if c.peer_id == relay and not c.is_relayed]

    def _set(self, state: RelayState, reason: str, address: CircuitAddress | None) -> None:
        if (state, reason) != (self._state, self._reason):
            log.info("relay %s: %s %s", self.relay.peer_id.short, state, reason)
        self._state, self._reason = state, reason
        if address != self.address:
            self.address = address
            self._on_change()
