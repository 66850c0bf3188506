"""Where this node's data socket can be found: its interfaces, what reflectors saw, mapped ports."""

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from protocol.errors import ProtocolError, RemoteProtocolError
from protocol.reach import CANDIDATES_MAX, Candidate, CandidateKind, Mapping, NATHints
from transport.interfaces import local_hosts
from transport.paths.reflector_client import ReflectorClient
from transport.reach.port_mapping import PortMapper
from transport.udp.udp_socket import SocketAddress

__all__ = ["Whereabouts"]

MEASURE_AGAIN_S: Final = 60.0
"""A NAT seldom changes its ways; its mapping's port is kept fresh apart from this."""

SETTLE_S: Final = 1.0
"""After a change: networks change more than once, and signalling, in a hurry, measures first."""

LAN_MAX: Final = 8
"""Addresses of interfaces that are told; a host with more is a server."""


log = logging.getLogger(__name__)


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
        self.mapper = mapper
        self._on_change = on_change
        self._own: tuple[SocketAddress, ...] = ()
        self._measured_at = -MEASURE_AGAIN_S
        self._measured: frozenset[SocketAddress] = frozenset()
        self._measuring = asyncio.Lock()
        self._keeping: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._is_closed = False

    @property
    def hints(self) -> NATHints:
        return self._client.hints

    @property
    def observed(self) -> tuple[tuple[str, int], ...]:
        """Our addresses as reflectors saw them last; not what is nobody's address, as a reflector
        that lies may say."""
        return tuple(each for each in self._client.observed if _is_possible(*each))

    def use(self, reflectors: Sequence[SocketAddress]) -> None:
        """Keep these reflectors' view fresh, and our mapping towards them open."""
        if self._is_closed or tuple(reflectors) == self._own:
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
                await self._measure(asked, with_filtering=False)
                self._measured_at, self._measured = monotonic(), frozenset(asked)
        return self.hints

    async def _measure(self, asked: Sequence[SocketAddress], *, with_filtering: bool) -> None:
        client = self._client
        try:
            hints = await client.measure(
                asked, listen_host=self._listen_host, with_filtering=with_filtering
            )
        except ProtocolError as error:  # a reflector that lies, or too many questions at once
            log.info("our address could not be asked for: %s", error)
            return
        if not self.observed:
            client.hints = NATHints(Mapping.BLOCKED, hints.filtering)

    def candidates(self) -> tuple[Candidate, ...]:
        """For a peer, best first; loopback only if that is all there is."""
        found = [_own_candidate(host, self._port) for host in local_hosts(self._listen_host)]
        found = found[:LAN_MAX]
        found += [Candidate(CandidateKind.OBSERVED, *address) for address in self.observed]
        if self.mapper is not None and (mapped := self.mapper.mapping) is not None:
            found.append(Candidate(CandidateKind.MAPPED, mapped.host, mapped.port))
        outside = [c for c in found if not c.is_loopback]
        unique: dict[tuple[str, int], Candidate] = {}
        for candidate in outside or found:
            unique.setdefault((candidate.host, candidate.port), candidate)
        return tuple(unique.values())[:CANDIDATES_MAX]

    def outside(self) -> tuple[tuple[str, int], ...]:
        """Addresses worth dialling without being asked to punch: no NAT, or a mapped port."""
        addresses: list[tuple[str, int]] = []
        if self.mapper is not None and (mapped := self.mapper.mapping) is not None:
            addresses.append((mapped.host, mapped.port))
        if self.hints.mapping in (Mapping.INDEPENDENT, Mapping.UNKNOWN):
            addresses += self.observed
        return tuple(addresses)

    def network_changed(self) -> None:
        """What was measured may be void."""
        self._measured_at = -MEASURE_AGAIN_S
        self._changed.set()

    async def close(self) -> None:
        self._is_closed = True
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    async def _keep(self, reflectors: Sequence[SocketAddress]) -> None:
        while True:
            self._changed.clear()
            await self.measure()
            self._on_change()
            if self.hints.mapping is Mapping.BLOCKED:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(MEASURE_AGAIN_S):
                        await self._changed.wait()
            else:
                # Takes longer, and only the prediction of ports profits.
                async with self._measuring:
                    await self._measure(reflectors, with_filtering=True)
                await self._watch(reflectors)
            await asyncio.sleep(SETTLE_S)
            self._measured_at = -MEASURE_AGAIN_S

    async def _watch(self, reflectors: Sequence[SocketAddress]) -> None:
        """Hold the mapping open until our outside address is another."""
        keeping = asyncio.create_task(self._client.keep(reflectors, self._changed.set))
        waiting = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait((keeping, waiting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            keeping.cancel()
            waiting.cancel()
            results = await asyncio.gather(keeping, waiting, return_exceptions=True)
        if isinstance(results[0], Exception):
            log.info("our address is not watched for a while: %s", results[0])
            await asyncio.sleep(MEASURE_AGAIN_S)


def _own_candidate(host: str, port: int) -> Candidate:
    address = ipaddress.ip_address(host)
    is_global_ipv6 = address.version == 6 and address.is_global
    return Candidate(CandidateKind.IPV6 if is_global_ipv6 else CandidateKind.LAN, host, port)


def _is_possible(host: str, port: int) -> bool:
    try:
        Candidate(CandidateKind.OBSERVED, host, port)
    except RemoteProtocolError:
        return False
    return True
