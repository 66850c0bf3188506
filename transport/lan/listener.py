"""The listening side: TCP in, ticket checked, stream served.

A stranger on the LAN can make us do one TLS handshake at a time per slot, and nothing else: slots
are few, each has a timeout, and without a ticket nobody is heard.
"""

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from protocol.errors import PieceworkError
from transport.base import PathKind
from transport.interfaces import path_kind_of
from transport.lan.carrier import LanCarrier
from transport.lan.session import LanSession
from transport.lan.settings import LanSettings, prepare_socket
from transport.lan.tickets import TicketBook
from transport.lan.wire import OPENING_BYTES, TICKET_BYTES, opening_name_bytes

__all__ = ["LanCounts", "LanListener", "bind_listener"]

log = logging.getLogger(__name__)

_BACKLOG: Final = 64
_ACCEPT_PAUSE_S: Final = 0.2
"""After an accept that failed, for want of descriptors say."""


@dataclass(slots=True)
class LanCounts:
    """Connections since the start, by what became of them."""

    served: int = 0
    strangers_closed: int = 0
    """From outside the LAN, or while no ticket was outstanding."""
    over_limit_closed: int = 0
    handshakes_failed: int = 0
    tickets_refused: int = 0


Serve = Callable[[LanCarrier, LanSession, str], None]


def bind_listener(listen_host: str, port: int) -> socket.socket:
    """A listening socket; `::` takes IPv4 as well. Raises OSError."""
    family = socket.AF_INET6 if ":" in listen_host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((listen_host, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


class LanListener:
    """Owned by FastLan. `serve` is called with each stream whose ticket was good."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        tickets: TicketBook[LanSession],
        settings: LanSettings,
        scratch: memoryview,
        serve: Serve,
    ) -> None:
        self.counts = LanCounts()
        self._listener = listener
        self._context = context
        self._tickets = tickets
        self._settings = settings
        self._scratch = scratch
        self._serve = serve
        self._half_open: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._spawn(self._accept())

    @property
    def port(self) -> int:
        number: int = self._listener.getsockname()[1]
        return number

    @property
    def half_open_count(self) -> int:
        return self._half_open.total()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                opened, address = await loop.sock_accept(self._listener)
            except OSError as error:
                log.warning("accepting on the LAN failed: %s", error)
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            if self._may_enter(address[0]):
                self._half_open[address[0]] += 1
                self._spawn(self._admit(opened, address[0]))
            else:
                opened.close()
            await asyncio.sleep(0)  # a flood of connections waits its turn like everybody

    def _may_enter(self, host: str) -> bool:
        settings, counts = self._settings, self.counts
        if path_kind_of(host) is not PathKind.LAN or not self._tickets.outstanding_count:
            counts.strangers_closed += 1
            return False
        if (
            self.half_open_count >= settings.half_open_max
            or self._half_open[host] >= settings.half_open_per_host_max
        ):
            counts.over_limit_closed += 1
            return False
        return True

    async def _admit(self, opened: socket.socket, host: str) -> None:
        try:
            if (carrier := await self._shake_hands(opened)) is not None:
                await self._open(carrier)
        finally:
            self._half_open[host] -= 1
            if not self._half_open[host]:
                del self._half_open[host]

    async def _shake_hands(self, opened: socket.socket) -> LanCarrier | None:
        settings = self._settings
        carrier = LanCarrier(settings.stream, self._scratch)
        try:
            prepare_socket(opened)
            # The timeout is ours as well: the loop's own counts from when TLS begins.
            await _within(
                settings.handshake_timeout_s,
                asyncio.get_running_loop().connect_accepted_socket(
                    lambda: carrier,
                    opened,
                    ssl=self._context,
                    ssl_handshake_timeout=settings.handshake_timeout_s,
                    ssl_shutdown_timeout=settings.shutdown_timeout_s,
                ),
            )
        except (OSError, TimeoutError):
            self.counts.handshakes_failed += 1
            opened.close()
            return None
        return carrier

    async def _open(self, carrier: LanCarrier) -> None:
        try:
            ticket, protocol = await _within(
                self._settings.opening_timeout_s, _read_opening(carrier)
            )
        except (PieceworkError, TimeoutError):
            self.counts.tickets_refused += 1
            carrier.abort()
            return
        except asyncio.CancelledError:
            carrier.abort()
            raise
        session = self._tickets.redeem(ticket, monotonic())
        if session is None or session.is_over:
            self.counts.tickets_refused += 1
            carrier.abort()
        elif session.stream_count >= self._settings.streams_max:
            self.counts.over_limit_closed += 1
            carrier.abort()
        else:
            self._serve(carrier, session, protocol)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _read_opening(carrier: LanCarrier) -> tuple[bytes, str]:
    head = await carrier.read_exactly(OPENING_BYTES)
    name = await carrier.read_exactly(opening_name_bytes(head))
    # A name that is no text is a protocol that nobody serves.
    return head[:TICKET_BYTES], name.decode(errors="replace")


async def _within(timeout_s: float, awaitable: Awaitable[Any]) -> Any:
    async with asyncio.timeout(timeout_s):
        return await awaitable
