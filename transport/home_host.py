"""`HomeHost`: a node on the network, behind whatever its home has.

    host = await HomeHost.start(key, relays=[relay])
    connection = await host.connect(peer_id, addresses, timeout_s=10)

It puts together the data socket, the control plane with its relays, the paths between, and the fast
path on a LAN. The control plane is started when it is first needed: at once where there are relays
to be reached by, else when a peer is dialled by his.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

from protocol.errors import LocalProtocolError, PieceworkError
from protocol.identity import KeyPair, PeerId
from transport.address import Address, AnyAddress, CircuitAddress, TcpAddress
from transport.base import Host, PathKind, StreamHandler
from transport.control.base import ControlHost
from transport.errors import Attempt, DialFailed
from transport.home_connection import HomeConnection
from transport.interfaces import is_loopback, path_kind_of
from transport.lan.fast_lan import FastLan
from transport.network_status import network_status
from transport.paths.probing import Probing
from transport.paths.reflector_client import ReflectorClient
from transport.quic.connection import QuicConnection
from transport.quic.endpoint import EndpointStatistics
from transport.quic.host import QuicHost
from transport.quic.seams import CloseCode
from transport.quic.settings import QuicSettings
from transport.race import first_of
from transport.reach.attachment import RelayStatus
from transport.reach.control_plane import ControlFactory, ControlPlane
from transport.reach.interface_watch import InterfaceWatch
from transport.reach.port_mapping import PortMapper
from transport.reach.reach_link import ReachLink
from transport.reach.whereabouts import Whereabouts
from transport.udp.udp_socket import has_ipv6

__all__ = ["EVERYWHERE", "HomeHost"]

EVERYWHERE: Final = "::"
"""Every address of this machine, of IPv6 and IPv4."""

ADDRESSES_MAX: Final = 16
"""Of a record; addresses of interfaces are cut off first."""

DIRECT_HEAD_START_S: Final = 0.05
"""A LAN address answers before the first step of signalling is over."""

DIAL_GRACE_S: Final = 1.0
"""A dial ends by itself shortly after its timeout, with reasons that are worth the wait."""

log = logging.getLogger(__name__)


class HomeHost(Host):
    """Make one with `start`; close it in the same event loop."""

    def __init__(
        self,
        key: KeyPair,
        quic: QuicHost,
        listen_host: str,
        relays: Sequence[TcpAddress],
        make_control: ControlFactory,
        *,
        maps_port: bool,
    ) -> None:
        self.quic = quic
        probing = Probing(quic.endpoint)
        self._mapper = PortMapper(quic.port, self._on_change) if maps_port else None
        self.whereabouts = Whereabouts(
            ReflectorClient(probing), listen_host, quic.port, self._mapper, self._on_change
        )
        self._interfaces = InterfaceWatch(self.network_changed)
        self._fast_lan: FastLan | None = None
        self._control = ControlPlane(key, relays, make_control, probing, self._on_change)
        self._dials: dict[PeerId, asyncio.Task[QuicConnection]] = {}
        self._is_closed = False

    @classmethod
    async def start(
        cls,
        key: KeyPair,
        *,
        listen_host: str = EVERYWHERE,
        port: int = 0,
        relays: Sequence[TcpAddress] = (),
        maps_port: bool = False,
        fast_lan: bool = True,
        settings: QuicSettings | None = None,
        make_control: ControlFactory | None = None,
    ) -> "HomeHost":
        """Bind the sockets and begin to attach to `relays`. Raises OSError.

        `maps_port` asks the home router to open the data socket's port. EVERYWHERE is IPv4 alone
        on a machine without IPv6.
        """
        if listen_host == EVERYWHERE and not has_ipv6():
            log.info("this machine has no IPv6: listening on IPv4 alone")
            listen_host = "0.0.0.0"
        quic = await QuicHost.start(key, listen_host=listen_host, port=port, settings=settings)
        host = cls(key, quic, listen_host, relays, make_control or _libp2p, maps_port=maps_port)
        try:
            if fast_lan:
                host._fast_lan = await FastLan.start(quic, listen_host)
            if relays:
                await host._control.start(host.whereabouts)
        except BaseException:
            await host.close()
            raise
        if host._mapper is not None:
            host._mapper.start()
        if not is_loopback(listen_host):
            host._interfaces.start()
        return host

    @property
    def peer_id(self) -> PeerId:
        return self.quic.peer_id

    @property
    def addresses(self) -> tuple[AnyAddress, ...]:
        """LAN first, then what is reachable from outside without punching, then by relays."""
        outside = [Address(host, port, self.peer_id) for host, port in self.whereabouts.outside()]
        circuits = self._control.addresses
        near_max = ADDRESSES_MAX - len(outside) - len(circuits)
        return tuple(dict.fromkeys((*self.quic.addresses[:near_max], *outside, *circuits)))

    @property
    def relay_statuses(self) -> tuple[RelayStatus, ...]:
        return self._control.relay_statuses

    @property
    def links(self) -> tuple[ReachLink, ...]:
        """Managed ways to peers, with what became of each path; for status pages."""
        return self._control.links

    def set_handler(self, protocol: str, handler: StreamHandler | None) -> None:
        self.quic.set_handler(protocol, handler)

    def connections(self) -> tuple[HomeConnection, ...]:
        return tuple(HomeConnection(c, self._fast_lan) for c in self.quic.connections())

    def statistics(self) -> EndpointStatistics:
        return self.quic.statistics()

    def network_status(self) -> dict[str, Any]:
        """Relays, NAT, connections and what became of their paths (see `network_status`)."""
        return network_status(
            addresses=self.addresses,
            relays=self.relay_statuses,
            whereabouts=self.whereabouts,
            connections=self.connections(),
            links=self.links,
            verdicts=() if self._fast_lan is None else self._fast_lan.verdicts(),
        )

    async def wait_settled(self, timeout_s: float) -> None:
        """Until every relay has been tried once and our address was asked for; not for longer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._control.wait_settled(timeout_s)
                await self.whereabouts.measure()

    async def connect(
        self, peer_id: PeerId, addresses: Sequence[AnyAddress], *, timeout_s: float
    ) -> HomeConnection:
        """The newest living connection, or a new one: direct, or by the peer's relay at once and
        moved to a direct path when one is found. Concurrent calls share the first one's dial."""
        if self._is_closed:
            raise LocalProtocolError("The host is closed.")
        if (living := self.quic.living(peer_id)) is not None:
            return HomeConnection(living, self._fast_lan)
        task = self._dials.get(peer_id)
        if task is None:
            task = asyncio.create_task(self._dial(peer_id, tuple(addresses), timeout_s))
            self._dials[peer_id] = task
            task.add_done_callback(partial(self._on_dialled, peer_id))
        try:
            async with asyncio.timeout(timeout_s + DIAL_GRACE_S):
                return HomeConnection(await asyncio.shield(task), self._fast_lan)
        except TimeoutError:
            reason = "another dial of the same peer is still under way"
        except asyncio.CancelledError:
            if not task.cancelled():
                raise  # it was our caller who was cancelled, not the dial
            reason = "this host was closed"
        raise DialFailed(str(peer_id), (Attempt("-", reason, timeout_s),))

    async def connect_at(self, host: str, port: int, *, timeout_s: float) -> HomeConnection:
        """A new connection to whoever answers at that UDP address. Raises DialFailed."""
        connection = await self.quic.connect_at(host, port, timeout_s=timeout_s)
        return HomeConnection(connection, self._fast_lan)

    def network_changed(self) -> None:
        """This machine's addresses changed, which it notices by itself, or what lies between may
        be another: measure, check paths and relays again."""
        self.whereabouts.network_changed()
        self._control.network_changed()

    async def close(self) -> None:
        """Tell every peer, give back relays and mapped ports, close the sockets."""
        if self._is_closed:
            return
        self._is_closed = True
        async with contextlib.AsyncExitStack() as stack:  # each even where another fails
            stack.push_async_callback(self.quic.close)
            if self._mapper is not None:
                stack.push_async_callback(self._mapper.close)
            stack.push_async_callback(self.whereabouts.close)
            stack.push_async_callback(self._interfaces.close)
            stack.push_async_callback(self._control.close)
            stack.callback(self.quic.say_goodbye)
            if self._fast_lan is not None:
                stack.push_async_callback(self._fast_lan.close)
            dials = tuple(self._dials.values())
            for dial in dials:
                dial.cancel()
            await asyncio.gather(*dials, return_exceptions=True)

    # Dialling

    async def _dial(
        self, peer_id: PeerId, addresses: tuple[AnyAddress, ...], timeout_s: float
    ) -> QuicConnection:
        direct = [a for a in addresses if isinstance(a, Address)]
        circuits = [a for a in addresses if isinstance(a, CircuitAddress) and a.peer_id == peer_id]
        if not circuits or peer_id == self.peer_id:
            return await self.quic.connect(peer_id, direct, timeout_s=timeout_s)
        ways: list[tuple[float, Callable[[], Awaitable[QuicConnection]]]] = []
        if direct:
            ways.append((0.0, partial(self.quic.dial, peer_id, direct, timeout_s=timeout_s)))
        is_near = any(path_kind_of(a.host) is PathKind.LAN for a in direct)
        delay_s = DIRECT_HEAD_START_S if is_near else 0.0
        ways.append((delay_s, partial(self._reach, peer_id, circuits, timeout_s)))
        return await first_of(str(peer_id), ways, _discard)

    async def _reach(
        self, peer_id: PeerId, circuits: Sequence[CircuitAddress], timeout_s: float
    ) -> QuicConnection:
        try:
            reacher = await self._control.start(self.whereabouts)
        except (PieceworkError, OSError) as error:
            attempt = Attempt("control plane", f"it did not start: {error}", 0.0)
            raise DialFailed(str(peer_id), (attempt,)) from error
        return await reacher.reach(peer_id, circuits, timeout_s)

    def _on_dialled(self, peer_id: PeerId, task: asyncio.Task[QuicConnection]) -> None:
        del self._dials[peer_id]
        if not task.cancelled():
            task.exception()  # seen here, in case nobody waits any more

    def _on_change(self) -> None:
        """Relays or outside addresses came or went: ask the reflectors of those we have."""
        if self._is_closed:
            return
        to_socket_address = self.quic.endpoint.udp.to_socket_address
        found = (to_socket_address(host, port) for host, port in self._control.udp)
        self.whereabouts.use([address for address in found if address is not None])


def _discard(connection: QuicConnection) -> None:
    connection.close_now(CloseCode.NOT_NEEDED, "another way was faster")


async def _libp2p(key: KeyPair) -> ControlHost:
    """A control plane that dials and does not listen: homes are reached by their relays."""
    from transport.control.host import LibP2pHost

    return await LibP2pHost.start(key, listen=())
