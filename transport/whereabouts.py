"""Where this node's data socket can be found: its interfaces, what reflectors saw, mapped ports."""

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from protocol.reach import CANDIDATES_MAX, Candidate, CandidateKind, Mapping, NATHints
from transport.interfaces import is_loopback, local_hosts
from transport.port_mapping import PortMapper
from transport.reflector_client import ReflectorClient
from transport.udp_socket import SocketAddress

__all__ = ["Whereabouts"]

MEASURE_AGAIN_S: Final = 60.0
"""A NAT seldom changes its ways; its mapping's port is kept fresh apart from this."""

LAN_MAX: Final = 8
"""Addresses of interfaces that are told; a host with more is a server."""


class Whereabouts:
    """Owned by one home host. `on_change`: an outside address came, went or changed."""

    def __init__(
        self,
        reflectors: ReflectorClient,
        listen_host: str,
        port: int,
        mapper: PortMapper | None,
        on_change: Callable[[], None],
    ) -> None:
        self._client = reflectors
        self._listen_host = listen_host
        self._port = port
        self._mapper = mapper
        self._on_change = on_change
        self._own: tuple[SocketAddress, ...] = ()
        self._measured_at = -MEASURE_AGAIN_S
        self._measured: frozenset[SocketAddress] = frozenset()
        self._measuring = asyncio.Lock()
        self._keeping: asyncio.Task[None] | None = None

    @property
    def hints(self) -> NATHints:
        return self._client.hints

    def use(self, reflectors: Sequence[SocketAddress]) -> None:
        """Keep these reflectors' view fresh, and our mapping towards them open."""
        if tuple(reflectors) == self._own:
            return
        self._own = tuple(reflectors)
        if self._keeping is not None:
            self._keeping.cancel()
        self._keeping = asyncio.create_task(self._keep(self._own)) if self._own else None

    async def measure(self, more: Sequence[SocketAddress] = ()) -> NATHints:
        """What kind of NAT we are behind, asked again after a while or of new reflectors.

        BLOCKED when none of them answered. One round trip.
        """
        asked = tuple(dict.fromkeys((*self._own, *more)))
        async with self._measuring:
            is_fresh = monotonic() - self._measured_at < MEASURE_AGAIN_S
            if asked and not (is_fresh and self._measured >= set(asked)):
                hints = await self._client.measure(
                    asked, listen_host=self._listen_host, with_filtering=False
                )
                if not self._client.observed:
                    self._client.hints = NATHints(Mapping.BLOCKED, hints.filtering)
                self._measured_at, self._measured = monotonic(), frozenset(asked)
        return self._client.hints

    def candidates(self) -> tuple[Candidate, ...]:
        """For a peer, best first; loopback only if that is all there is."""
        found = [_own_candidate(host, self._port) for host in local_hosts(self._listen_host)]
        found = found[:LAN_MAX]
        for host, port in self._client.observed:
            found.append(Candidate(CandidateKind.OBSERVED, host, port))
        if self._mapper is not None and (mapped := self._mapper.mapping) is not None:
            found.append(Candidate(CandidateKind.MAPPED, mapped.host, mapped.port))
        outside = [c for c in found if not is_loopback(c.host)]
        unique = {(c.host, c.port): c for c in reversed(outside or found)}
        return tuple(reversed(unique.values()))[:CANDIDATES_MAX]

    def outside(self) -> tuple[tuple[str, int], ...]:
        """Addresses worth dialling without being asked to punch: no NAT, or a mapped port."""
        addresses: list[tuple[str, int]] = []
        if self._mapper is not None and (mapped := self._mapper.mapping) is not None:
            addresses.append((mapped.host, mapped.port))
        if self.hints.mapping in (Mapping.INDEPENDENT, Mapping.UNKNOWN):
            addresses += self._client.observed
        return tuple(addresses)

    def network_changed(self) -> None:
        """What was measured may be void."""
        self._measured_at = -MEASURE_AGAIN_S

    async def close(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    async def _keep(self, reflectors: Sequence[SocketAddress]) -> None:
        await self.measure()
        self._on_change()
        # Takes longer, and only the prediction of ports profits.
        await self._client.measure(reflectors, listen_host=self._listen_host, with_filtering=True)
        await self._client.keep(reflectors, self._on_observed_change)

    def _on_observed_change(self) -> None:
        self.network_changed()
        self._on_change()


def _own_candidate(host: str, port: int) -> Candidate:
    address = ipaddress.ip_address(host)
    is_global_ipv6 = address.version == 6 and address.is_global
    return Candidate(CandidateKind.IPV6 if is_global_ipv6 else CandidateKind.LAN, host, port)
