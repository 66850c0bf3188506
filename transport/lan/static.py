"""`StaticDiscovery`: neighbours whose addresses a person typed in, for networks without multicast.

An address says nothing of who is there; so each is dialled, and the answer's certificate tells.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from protocol.errors import LocalProtocolError
from protocol.identity import PeerId
from transport.address import Address
from transport.base import Connection
from transport.errors import TransportError
from transport.lan.discovery import Discovery, OnFound, OnLost, Sighting

__all__ = ["StaticDialler", "StaticDiscovery", "StaticPeer", "parse_host_port"]

log = logging.getLogger(__name__)

PEERS_MAX: Final = 64
DIAL_TIMEOUT_S: Final = 5.0
RETRY_MIN_S: Final = 1.0
RETRY_MAX_S: Final = 60.0
"""Between tries, doubling: a machine that is switched on is found within a minute."""

CHECK_S: Final = 5.0
"""How often it is looked whether the connection still stands."""


class StaticDialler(Protocol):
    """What is needed of the host; QuicHost has it."""

    async def connect_at(self, host: str, port: int, *, timeout_s: float) -> Connection: ...
    def connections(self) -> tuple[Connection, ...]: ...


@dataclass(slots=True)
class StaticPeer:
    """One typed address, and what came of it so far; for tables and `doctor`."""

    host: str
    port: int
    peer_id: PeerId | None = field(default=None)
    problem: str = ""
    """Why the last dial failed, or empty."""


def parse_host_port(text: str) -> tuple[str, int]:
    """`192.168.1.20:4001`, `[fd00::7]:4001` or `name:4001`; raises LocalProtocolError."""
    host, _, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_bare_ipv6 = ":" in host and not text.startswith("[")
    if not host or is_bare_ipv6 or not port.isdecimal() or not 0 < int(port) < 65536:
        raise LocalProtocolError(f"'{text}' is not HOST:PORT, for example 192.168.1.20:4001.")
    return host, int(port)


class StaticDiscovery(Discovery):
    """`peers` are texts as `parse_host_port` takes them; raises LocalProtocolError for others."""

    def __init__(
        self,
        dialler: StaticDialler,
        peers: Sequence[str],
        *,
        dial_timeout_s: float = DIAL_TIMEOUT_S,
        retry_min_s: float = RETRY_MIN_S,
        check_s: float = CHECK_S,
    ) -> None:
        if len(peers) > PEERS_MAX:
            raise LocalProtocolError(f"At most {PEERS_MAX} addresses can be given.")
        self.peers = tuple(StaticPeer(*parse_host_port(text)) for text in dict.fromkeys(peers))
        self._dialler = dialler
        self._dial_timeout_s = dial_timeout_s
        self._retry_min_s = retry_min_s
        self._check_s = check_s
        self._tasks: list[asyncio.Task[None]] = []
        self._on_found: OnFound | None = None
        self._on_lost: OnLost | None = None

    async def start(self, on_found: OnFound, on_lost: OnLost) -> None:
        self._on_found, self._on_lost = on_found, on_lost
        self._tasks = [asyncio.create_task(self._follow(peer)) for peer in self.peers]

    def update(self, addresses: Sequence[Address]) -> None:
        """Nothing is announced."""

    async def close(self) -> None:
        self._on_found = self._on_lost = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, peer: StaticPeer) -> None:
        """Dial until somebody answers, watch over the connection, and dial again."""
        retry_s = self._retry_min_s
        while True:
            if await self._dial(peer):
                retry_s = self._retry_min_s
                while self._is_connected(peer):
                    await asyncio.sleep(self._check_s)
            else:
                self._lose(peer)
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, RETRY_MAX_S)

    async def _dial(self, peer: StaticPeer) -> bool:
        try:
            async with asyncio.timeout(self._dial_timeout_s):
                literal = await _resolve(peer.host, peer.port)
            connection = await self._dialler.connect_at(
                literal, peer.port, timeout_s=self._dial_timeout_s
            )
        except (TransportError, OSError, TimeoutError) as error:
            problem = str(error) or "the name was not found in time"
            if peer.problem != problem:
                log.info("nobody answers at %s:%d: %s", peer.host, peer.port, problem)
            peer.problem = problem
            return False
        peer.problem = ""
        if peer.peer_id != connection.peer_id:
            self._lose(peer)
        peer.peer_id = connection.peer_id
        if self._on_found is not None:
            address = Address(literal.partition("%")[0], peer.port, connection.peer_id)
            self._on_found(Sighting(connection.peer_id, (address,), ""))
        return True

    def _is_connected(self, peer: StaticPeer) -> bool:
        return any(c.peer_id == peer.peer_id for c in self._dialler.connections())

    def _lose(self, peer: StaticPeer) -> None:
        lost, peer.peer_id = peer.peer_id, None
        is_elsewhere = any(other.peer_id == lost for other in self.peers)
        if lost is not None and not is_elsewhere and self._on_lost is not None:
            self._on_lost(lost)


async def _resolve(host: str, port: int) -> str:
    """The first address of a typed name; literal addresses ask nobody. Raises OSError."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        return str(found[0][4][0])
