"""`LibP2pHost`: the control plane on py-libp2p's Noise and yamux over TCP.

    this loop (asyncio)                      │ the host's thread (trio)
    LibP2pHost ── LibP2pConnection           │ ControlCore ── Link ── BoundedYamux ── Noise ── Pipe
                       └─ LibP2pStream ──────┼──────────────────────────┘             └ TCP, or a
    CircuitClient                       TrioThread                                      circuit

The library's Swarm and BasicHost are not used: they dial after 250 ms, know one connection a peer
and bound nothing (D6 to D14). It is imported when the first host starts, which takes 0.7 s.
"""

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, TypeAlias

from protocol.errors import PieceworkError, RemoteProtocolError
from protocol.identity import KeyPair, PeerId
from transport.address import Address, AnyAddress, CircuitAddress, TcpAddress
from transport.control.base import ControlHandler, ControlHost, Reservation
from transport.control.circuit import CircuitClient
from transport.control.circuit_answer import CircuitAnswer
from transport.control.circuit_messages import STOP_PROTOCOL
from transport.control.connection import LibP2pConnection, agree_as_responder
from transport.control.handlers import ControlHandlers
from transport.control.identify import serve_basics
from transport.control.settings import ControlSettings
from transport.control.stream import LibP2pStream
from transport.control.thread import TrioThread
from transport.errors import (
    Attempt,
    DialFailed,
    PeerGone,
    ProtocolNotSupported,
    RelayRefused,
    TimedOut,
)
from transport.interfaces import local_hosts

if TYPE_CHECKING:
    from transport.control.core import ControlCore
    from transport.control.library import YamuxStream
    from transport.control.link import Link

__all__ = ["LibP2pHost"]

_Kind: TypeAlias = tuple[PeerId, PeerId | None]
"""Peer, and the relay between, if any."""


class LibP2pHost(ControlHost):
    """Made by `start`, ended by `close`. Everything is called in the loop that started it."""

    def __init__(self, key: KeyPair, settings: ControlSettings | None = None) -> None:
        """Use `start`."""
        self._key = key
        self._settings = settings or ControlSettings()
        self._handlers = ControlHandlers()
        self._sockets: tuple[tuple[str, int], ...] = ()
        self._connections: dict[Link, LibP2pConnection] = {}
        self._dials: dict[AnyAddress, asyncio.Task[Link]] = {}
        self._circuits = CircuitClient(key.peer_id, self)
        self._thread = TrioThread(f"control-{key.peer_id.short}")
        self._core: ControlCore
        self._is_closed = False
        self.set_handler(STOP_PROTOCOL, self._circuits.accept)
        serve_basics(self, lambda: self._handlers.protocols)

    @classmethod
    async def start(
        cls,
        key: KeyPair,
        *,
        listen: Sequence[tuple[str, int]] = (),
        settings: ControlSettings | None = None,
    ) -> "LibP2pHost":
        """Listen on each (address, TCP port; 0 for any), or nowhere.

        A wildcard address is bound as it is, but advertised as those it stands for (D7). Raises
        TransportError where a port cannot be had.
        """
        host = cls(key, settings)
        await host._thread.start()
        try:
            await host._listen(listen)
        except BaseException:
            await host.close()
            raise
        return host

    @property
    def peer_id(self) -> PeerId:
        return self._key.peer_id

    @property
    def addresses(self) -> tuple[TcpAddress, ...]:
        return tuple(
            TcpAddress(host, port, self.peer_id)
            for bound, port in self._sockets
            for host in local_hosts(bound)
        )

    def set_handler(self, protocol: str, handler: ControlHandler | None) -> None:
        self._handlers.set(protocol, handler)

    def connections(self) -> tuple[LibP2pConnection, ...]:
        return tuple(self._connections.values())

    async def connect(self, address: AnyAddress, *, timeout_s: float) -> LibP2pConnection:
        if isinstance(address, Address):
            raise RemoteProtocolError(f"{address} is the data socket's, not the control plane's.")
        if living := self._living(address):
            return living
        began_s = monotonic()
        try:
            link = await self._share_dial(address, timeout_s)
            return self._connections[link]
        except KeyError:
            reason, cause = "the peer closed the connection at once", None
        except PieceworkError as error:
            reason, cause = str(error).removesuffix("."), error
        attempt = Attempt(str(address), reason, monotonic() - began_s)
        raise DialFailed(str(address.peer_id), (attempt,)) from cause

    async def reserve(self, relay: TcpAddress, *, timeout_s: float) -> Reservation:
        began_s = monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                return await self._circuits.reserve(relay, timeout_s=timeout_s)
        except TimeoutError:
            reason: str | PieceworkError = "no answer in time"
        except (DialFailed, RelayRefused):
            raise
        except PieceworkError as error:
            reason = error
        attempt = Attempt(str(relay), str(reason).removesuffix("."), monotonic() - began_s)
        raise DialFailed(str(relay.peer_id), (attempt,))

    async def close(self) -> None:
        """End everything: handlers, connections (peers are told), the thread. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        for dial in tuple(self._dials.values()):
            dial.cancel()
        await self._handlers.cancel()
        goodbyes = [self._thread.submit(link.close) for link in self._connections]
        if goodbyes:
            await asyncio.wait(goodbyes, timeout=2 * self._settings.close_timeout_s)
        await self._thread.close()
        for connection in self.connections():
            connection.ended()
        self._connections.clear()

    async def accept_circuit(self, stream: LibP2pStream, relay: PeerId) -> "Link":
        """For `CircuitClient`: a connection on top of `stream`, which is no more a stream then."""
        remote = stream.remote
        muxed, unread, _ = stream.detach()
        return await self._thread.submit(self._core.accept_circuit, muxed, unread, remote, relay)

    async def call_by_circuit(
        self, stream: LibP2pStream, address: CircuitAddress, failure: str
    ) -> "Link":
        """For `CircuitClient`, as above."""
        remote = stream.remote
        muxed, unread, initiator = stream.detach()
        answer = CircuitAnswer(initiator, failure)
        return await self._thread.submit(
            self._core.call_by_circuit, muxed, unread, answer, remote, address
        )

    # --- dialling

    def _living(self, address: TcpAddress | CircuitAddress) -> LibP2pConnection | None:
        relay = address.relay.peer_id if isinstance(address, CircuitAddress) else None
        kind = (address.peer_id, relay)
        return next((c for c in reversed(self.connections()) if _kind(c) == kind), None)

    async def _share_dial(self, address: TcpAddress | CircuitAddress, timeout_s: float) -> "Link":
        """Raises TransportError, RemoteProtocolError, or RelayRefused."""
        if self._is_closed:
            raise PeerGone("The control plane is closed.")
        if address.peer_id == self.peer_id:
            raise RemoteProtocolError("That is our own PeerId.")
        dial = self._dials.get(address)
        if dial is None:
            dial = self._dials[address] = asyncio.create_task(self._dial(address))
            dial.add_done_callback(lambda _: self._dials.pop(address))
            dial.add_done_callback(lambda dial: dial.cancelled() or dial.exception())
        await asyncio.wait((dial,), timeout=timeout_s)
        if not dial.done():
            raise TimedOut("No answer in time.")
        if dial.cancelled():
            raise PeerGone("The control plane is closed.")
        return dial.result()

    async def _dial(self, address: TcpAddress | CircuitAddress) -> "Link":
        timeout_s = self._settings.dial_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                if isinstance(address, CircuitAddress):
                    return await self._circuits.dial(address, timeout_s=timeout_s)
                return await self._thread.submit(self._core.dial, address)
        except TimeoutError:
            raise TimedOut(f"No answer within {timeout_s:g} s.") from None

    # --- what the thread says

    async def _listen(self, sockets: Sequence[tuple[str, int]]) -> None:
        self._core = await self._thread.submit(self._make_core)
        if sockets:
            ports = await self._thread.submit(self._core.listen, tuple(sockets))
            self._sockets = tuple(
                (host, port) for (host, _), port in zip(sockets, ports, strict=True)
            )

    async def _make_core(self) -> "ControlCore":
        """Over there, so that the import of the library does not hold up this loop."""
        from transport.control.core import ControlCore, CoreEvents

        events = CoreEvents(self._link_made, self._stream_opened, self._link_ended)
        return ControlCore(self._key, self._settings, self._thread, events)

    def _link_made(self, link: "Link") -> None:
        connection = LibP2pConnection(self._thread, link, self._settings)
        same = [c for c in self.connections() if _kind(c) == _kind(connection)]
        self._connections[link] = connection
        if self._is_closed:
            self._thread.submit(link.close)
        elif len(same) >= self._settings.connections_per_peer_max:
            self._thread.submit(same[0].link.close)

    def _link_ended(self, link: "Link") -> None:
        if connection := self._connections.pop(link, None):
            connection.ended()

    def _stream_opened(self, link: "Link", muxed: "YamuxStream") -> None:
        connection = self._connections.get(link)
        if connection is None or self._is_closed:
            return  # its end has been said already
        stream = connection.stream(muxed)
        if self._handlers.task_count >= self._settings.handlers_max:
            self._handlers.spawn(stream.reset())
        else:
            self._handlers.spawn(self._serve(stream))

    async def _serve(self, stream: LibP2pStream) -> None:
        try:
            async with asyncio.timeout(self._settings.negotiation_timeout_s):
                protocol = await agree_as_responder(stream, self._handlers.is_served)
        except ProtocolNotSupported:
            await stream.close()  # not reset: he must get to read the `na`
        except (PieceworkError, TimeoutError):
            await stream.reset()
        else:
            await self._handlers.serve(stream, protocol)


def _kind(connection: LibP2pConnection) -> _Kind:
    return connection.peer_id, connection.link.relay
