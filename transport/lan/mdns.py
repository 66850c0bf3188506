"""`MdnsDiscovery`: neighbours found by multicast DNS (RFC 6762, 6763), through zeroconf.

One task does everything in turn: follow the machine's interfaces, announce, look closer at what
was heard, and ask again those who have gone silent. zeroconf keeps a name for 19 minutes however
short its TTL; so whether a machine is still there is told by its SRV record, which expires in
time, and by one more question.

Nothing leaves the LAN: 224.0.0.251 is not routed, only LAN interfaces are used, and the few
answers that go to one address carry a TTL of 1, so that the first router drops them.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from zeroconf import Error as ZeroconfError
from zeroconf import ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from transport.address import Address
from transport.base import PathKind
from transport.interfaces import local_addresses, path_kind_of
from transport.lan.discovery import Discovery, OnFound, OnLost, cluster_tag
from transport.lan.record import (
    SERVICE_TYPE,
    announced_hosts,
    instance_name,
    properties_of,
    server_name,
    sighting_of,
)
from transport.lan.sightings import Sightings

__all__ = ["MdnsDiscovery", "MdnsStatistics", "multicast_hosts"]

log = logging.getLogger(__name__)

TTL_S: Final = 30
"""How long others believe an announcement: a machine that vanished is forgotten soon after."""

CHECK_S: Final = 5.0
"""How often interfaces and expired announcements are looked at."""

ANSWER_TIMEOUT_S: Final = 3.0
"""For a neighbour that is asked whether it is still there; the question is repeated meanwhile."""

PENDING_MAX: Final = 256
"""Names heard and not yet looked at; the rest of a flood is dropped."""

ASKED_AT_ONCE_MAX: Final = 16
"""Neighbours that are asked at the same time."""


@dataclass(frozen=True, slots=True)
class MdnsStatistics:
    """What was heard since the start, for `doctor`."""

    is_running: bool
    interfaces: tuple[str, ...]
    """Our addresses on the interfaces in use."""
    peer_count: int
    other_cluster_count: int
    """Announcements of nodes that are not of this cluster."""
    malformed_count: int
    refused_count: int
    problem: str
    """Why multicast DNS does not run, or empty."""


class MdnsDiscovery(Discovery):
    """Announces this node to its LAN, and finds the others of its cluster."""

    def __init__(
        self, peer_id: PeerId, cluster: str, *, ttl_s: int = TTL_S, check_s: float = CHECK_S
    ) -> None:
        self._peer_id = peer_id
        self._tag = cluster_tag(cluster)
        self._ttl_s = ttl_s
        self._check_s = check_s
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._hosts: tuple[str, ...] = ()
        self._addresses: tuple[Address, ...] = ()
        self._announced: tuple[list[str], int] = ([], 0)
        self._sightings: Sightings | None = None
        self._pending: dict[str, None] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._other_clusters: set[str] = set()
        self._malformed_count = 0
        self._problem = ""

    async def start(self, on_found: OnFound, on_lost: OnLost) -> None:
        self._sightings = Sightings(on_found, on_lost)
        self._task = asyncio.create_task(self._run(self._sightings))

    def update(self, addresses: Sequence[Address]) -> None:
        self._addresses = tuple(addresses)
        self._wake.set()

    async def close(self) -> None:
        task, self._task, self._sightings = self._task, None, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._stop()

    def statistics(self) -> MdnsStatistics:
        sightings = self._sightings
        return MdnsStatistics(
            is_running=self._zeroconf is not None,
            interfaces=self._hosts,
            peer_count=len(sightings.peers) if sightings else 0,
            other_cluster_count=len(self._other_clusters),
            malformed_count=self._malformed_count,
            refused_count=sightings.refused_count if sightings else 0,
            problem=self._problem,
        )

    async def _run(self, sightings: Sightings) -> None:
        while True:
            self._wake.clear()
            try:
                await self._follow_interfaces()
                await self._announce()
                self._look(sightings)
                self._problem = ""
            except (OSError, ZeroconfError) as error:
                # A network that comes and goes; the next turn may find it better.
                if self._problem != str(error):
                    log.warning("multicast DNS does not work now: %s", error)
                self._problem = str(error) or type(error).__name__
                await self._stop()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._check_s):
                    await self._wake.wait()

    # The network

    async def _follow_interfaces(self) -> None:
        hosts = multicast_hosts()
        if hosts == self._hosts and (self._zeroconf is not None or not hosts):
            return
        log.info("multicast DNS on %s", ", ".join(hosts) or "no interface")
        if self._zeroconf is None or not hosts:
            await self._stop()
            self._hosts = hosts
            if hosts:
                self._begin(hosts)
        else:
            self._hosts = hosts
            await self._zeroconf.async_update_interfaces(list(hosts))
        await self._keep_unicast_near()

    def _begin(self, hosts: tuple[str, ...]) -> None:
        self._zeroconf = AsyncZeroconf(interfaces=list(hosts))
        self._browser = AsyncServiceBrowser(
            self._zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._on_change]
        )

    async def _keep_unicast_near(self) -> None:
        """Whoever asks from one address is answered there: not beyond the first router."""
        if self._zeroconf is None:
            return
        zeroconf = self._zeroconf.zeroconf
        await zeroconf.async_wait_for_start()
        for reader in zeroconf.engine.readers:
            if reader.is_ipv6:
                reader.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)
            else:
                reader.sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)

    async def _stop(self) -> None:
        zeroconf, self._zeroconf = self._zeroconf, None
        browser, self._browser = self._browser, None
        self._announced = ([], 0)
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        if browser is not None:
            await browser.async_cancel()
        if zeroconf is not None:
            # Says goodbye for what is registered.
            await zeroconf.async_close()

    async def _announce(self) -> None:
        zeroconf, wanted = self._zeroconf, announced_hosts(self._addresses)
        if zeroconf is None or wanted == self._announced:
            return
        hosts, port = wanted
        if not hosts:
            await zeroconf.async_unregister_all_services()
        else:
            info = AsyncServiceInfo(
                SERVICE_TYPE,
                instance_name(self._peer_id),
                port=port,
                addresses=[ip_address(host).packed for host in hosts],
                properties=properties_of(self._peer_id, self._tag),
                server=server_name(self._peer_id),
                host_ttl=self._ttl_s,
                other_ttl=self._ttl_s,
            )
            if self._announced[0]:
                await (await zeroconf.async_update_service(info))
            else:
                # The name is our PeerId: nobody else has it, so there is nothing to probe for.
                await (await zeroconf.async_register_service(info, cooperating_responders=True))
        self._announced = wanted

    # The neighbours

    def _on_change(
        self,
        zeroconf: Zeroconf,
        service_type: str,
        name: str,
        state_change: ServiceStateChange,
    ) -> None:
        if state_change is ServiceStateChange.Removed:
            self._pending.pop(name, None)
            self._other_clusters.discard(name)
            if self._sightings is not None:
                self._sightings.drop(name)
        elif len(self._pending) < PENDING_MAX:
            self._pending[name] = None
            self._wake.set()

    def _look(self, sightings: Sightings) -> None:
        """Read what was heard lately, and ask again whoever's announcement has run out."""
        if self._zeroconf is None:
            for name in sightings.names:
                sightings.drop(name)
            return
        zeroconf = self._zeroconf.zeroconf
        for name in dict.fromkeys([*self._pending, *sightings.names]):
            if name in self._asking:
                continue
            info = AsyncServiceInfo(SERVICE_TYPE, name)
            if info.load_from_cache(zeroconf):
                self._take(name, info, sightings)
            elif len(self._asking) < ASKED_AT_ONCE_MAX:
                self._asking[name] = asyncio.create_task(self._ask(name, zeroconf, sightings))
            else:
                continue  # its turn comes when one of the others has answered
            self._pending.pop(name, None)

    async def _ask(self, name: str, zeroconf: Zeroconf, sightings: Sightings) -> None:
        try:
            info = AsyncServiceInfo(SERVICE_TYPE, name)
            if await info.async_request(zeroconf, ANSWER_TIMEOUT_S * 1000):
                self._take(name, info, sightings)
            else:
                sightings.drop(name)
        except (OSError, ZeroconfError) as error:
            log.debug("asking a neighbour failed: %s", error)
            sightings.drop(name)
        finally:
            del self._asking[name]
            if self._pending:
                self._wake.set()

    def _take(self, name: str, info: AsyncServiceInfo, sightings: Sightings) -> None:
        try:
            sighting = sighting_of(info.properties, info.parsed_addresses(), info.port)
        except RemoteProtocolError as error:
            self._malformed_count += 1
            log.debug("an announcement makes no sense: %s", error)
            sightings.drop(name)
            return
        if sighting.peer_id == self._peer_id:
            return
        if sighting.cluster != self._tag:
            if len(self._other_clusters) < PENDING_MAX:
                self._other_clusters.add(name)
            sightings.drop(name)
        elif self._sightings is sightings:
            sightings.put(name, sighting)


def multicast_hosts() -> tuple[str, ...]:
    """Our LAN addresses on interfaces that can multicast; IPv6 only where there is no IPv4."""
    lan = [
        local
        for local in local_addresses()
        if local.has_multicast and path_kind_of(local.host) is PathKind.LAN
    ]
    hosts = [local.host for local in lan if ":" not in local.host]
    return tuple(dict.fromkeys(hosts or [local.host for local in lan]))
