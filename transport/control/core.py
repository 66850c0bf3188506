"""The half of the control plane that lives in trio's thread: listens, dials, runs links."""

import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from protocol.errors import PieceworkError
from protocol.identity import KeyPair, PeerId
from transport.address import CircuitAddress, TcpAddress
from transport.control.circuit_answer import CircuitAnswer
from transport.control.library import YamuxStream
from transport.control.link import Link, Upgrader
from transport.control.pipe import CircuitSource, Pipe, TcpSource
from transport.control.settings import ControlSettings
from transport.control.thread import TrioThread
from transport.errors import PeerGone, TransportError

__all__ = ["ControlCore", "CoreEvents"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CoreEvents:
    """Called in the owner's loop, for each link in this order."""

    link_made: Callable[[Link], None]
    stream_opened: Callable[[Link, YamuxStream], None]
    link_ended: Callable[[Link], None]


class ControlCore:
    """Everything here runs in the thread; the owner reaches it through `TrioThread.submit`."""

    def __init__(
        self, key: KeyPair, settings: ControlSettings, thread: TrioThread, events: CoreEvents
    ) -> None:
        self._settings = settings
        self._thread = thread
        self._events = events
        self._upgrader = Upgrader(key, settings)
        self._link_count = 0
        self._half_open: dict[trio.CancelScope, None] = {}

    async def listen(self, sockets: Sequence[tuple[str, int]]) -> tuple[int, ...]:
        """Bind each (host, port) and return the ports. Raises TransportError."""
        listeners: list[trio.SocketListener] = []
        try:
            for host, port in sockets:
                listeners += await trio.open_tcp_listeners(port, host=host)
        except OSError as error:
            for listener in listeners:
                listener.socket.close()
            raise TransportError(
                f"Cannot listen on TCP port {port} of {host}: {error.strerror}.",
                hint="Choose another port, or stop what uses it.",
            ) from error
        self._thread.start_soon(self._serve, listeners)
        return tuple(listener.socket.getsockname()[1] for listener in listeners)

    async def dial(self, address: TcpAddress) -> Link:
        """Raises TransportError or RemoteProtocolError."""
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        connecting = trio.socket.socket(family, socket.SOCK_STREAM)
        try:
            await connecting.connect((address.host, address.port))
        except BaseException as error:
            connecting.close()
            if isinstance(error, OSError):
                raise PeerGone(f"No connection: {error.strerror}.") from error
            raise
        pipe = Pipe(TcpSource(trio.SocketStream(connecting)), self._settings)
        remote = _text(address.host, address.port)
        return self._keep(
            await self._upgrader.upgrade(pipe, expected=address.peer_id, remote=remote)
        )

    async def accept_circuit(
        self, stream: YamuxStream, unread: bytes, remote: str, relay: PeerId
    ) -> Link:
        """Make a link of a circuit on which we are called."""
        pipe = Pipe(CircuitSource(stream, unread), self._settings)
        if self._link_count >= self._settings.connections_max:
            await pipe.close()
            raise PeerGone(f"There are {self._link_count} connections, which is the limit.")
        return self._keep(
            await self._upgrader.upgrade(pipe, expected=None, remote=remote, relay=relay)
        )

    async def call_by_circuit(
        self,
        stream: YamuxStream,
        unread: bytes,
        answer: CircuitAnswer,
        remote: str,
        address: CircuitAddress,
    ) -> Link:
        """Make a link of a circuit for which the relay was asked; raises what it answers."""
        pipe = Pipe(CircuitSource(stream, unread, answer), self._settings)
        relay = address.relay.peer_id
        return self._keep(
            await self._upgrader.upgrade(pipe, expected=address.peer_id, remote=remote, relay=relay)
        )

    def _keep(self, link: Link) -> Link:
        """Announced at once, so that its maker's waiter finds it when `link` reaches him."""
        self._thread.call_back(self._events.link_made, link)
        self._thread.start_soon(self._run, link)
        return link

    async def _run(self, link: Link) -> None:
        def stream_opened(stream: YamuxStream) -> None:
            self._thread.call_back(self._events.stream_opened, link, stream)

        self._link_count += 1
        try:
            await link.run(stream_opened)
        except Exception:  # the edge of a task: a defect of the library ends one connection only
            log.exception("a control connection failed")
        finally:
            self._link_count -= 1
            self._thread.call_back(self._events.link_ended, link)

    async def _serve(self, listeners: list[trio.SocketListener]) -> None:
        await trio.serve_listeners(self._answer, listeners)

    async def _answer(self, stream: trio.SocketStream) -> None:
        if self._link_count >= self._settings.connections_max:
            stream.socket.close()
            return
        if len(self._half_open) >= self._settings.half_open_max:
            oldest = next(iter(self._half_open))
            del self._half_open[oldest]
            oldest.cancel()
        link: Link | None = None
        scope = trio.CancelScope()
        self._half_open[scope] = None
        try:
            with scope:
                remote = _text(*stream.socket.getpeername()[:2])
                pipe = Pipe(TcpSource(stream), self._settings)
                link = await self._upgrader.upgrade(pipe, expected=None, remote=remote)
        except (PieceworkError, OSError) as error:
            log.debug("an incoming connection was not made: %s", error)
            return
        finally:
            self._half_open.pop(scope, None)
        if link is not None:
            self._thread.call_back(self._events.link_made, link)
            await self._run(link)  # trio closes the socket when this returns


def _text(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
