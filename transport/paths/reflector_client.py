"""Asks relays' reflectors which address the data socket has from outside, and what its NAT is like.

An observed address counts only for the socket that was observed, so the questions leave from the
data socket. Asked again every 20 s, the mapping stays open, and a change of network is noticed.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.datagram import TRANSACTION_BYTES, Reflect, Reflected
from protocol.reach import Filtering, Mapping, NATHints
from transport.errors import TimedOut
from transport.interfaces import local_hosts
from transport.paths.path_address import path_text
from transport.paths.probing import Probing
from transport.udp.udp_socket import SocketAddress

__all__ = ["Observed", "ReflectorClient"]

RETRY_S: Final = 0.25
ANSWER_S: Final = 1.5
"""For one reflector in a measurement: above the round trip of every home line, with retries."""

REFRESH_S: Final = 20.0
"""NATs may forget an idle mapping after 30 s."""

MISSES_MAX: Final = 3
"""Refreshes that no reflector answered before the observed address counts as unknown."""

REFLECTORS_MAX: Final = 8
"""Sockets asked: four relays with two ports."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What one reflector socket saw. `source` is where its answer came from."""

    host: str
    port: int
    has_other_port: bool
    source: SocketAddress


class ReflectorClient:
    """One per data socket."""

    def __init__(
        self, probing: Probing, *, refresh_s: float = REFRESH_S, answer_s: float = ANSWER_S
    ) -> None:
        self._probing = probing
        self._answer_s = answer_s
        self._refresh_s = refresh_s
        self.hints = NATHints()
        """What the last `measure` found."""
        self.observed: tuple[tuple[str, int], ...] = ()
        """Our distinct outside addresses, as seen last; one of each family, more if symmetric."""

    async def observe(
        self, reflector: SocketAddress, timeout_s: float, *, from_other_port: bool = False
    ) -> Observed:
        """Ask one reflector. Raises TimedOut, and LocalProtocolError if too many are asked."""
        transaction = os.urandom(TRANSACTION_BYTES)
        answer: asyncio.Future[Observed] = asyncio.get_running_loop().create_future()

        def take(reflected: Reflected, source: SocketAddress) -> None:
            is_right_port = source == reflector or from_other_port
            if source[0] == reflector[0] and is_right_port and not answer.done():
                answer.set_result(
                    Observed(reflected.host, reflected.port, reflected.has_other_port, source)
                )

        question = Reflect(transaction, from_other_port).encode()
        self._probing.expect_reflected(transaction, take)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    self._probing.endpoint.send([question], reflector)
                    done, _ = await asyncio.wait([answer], timeout=RETRY_S)
                    if done:
                        return answer.result()
        except TimeoutError:
            raise TimedOut(
                f"The reflector at {path_text(reflector)} did not answer within {timeout_s:g} s. "
                "UDP to it may be blocked."
            ) from None
        finally:
            self._probing.forget_reflected(transaction)

    async def measure(
        self,
        reflectors: Sequence[SocketAddress],
        *,
        listen_host: str = "0.0.0.0",
        with_filtering: bool = True,
    ) -> NATHints:
        """Mapping and filtering, from reflector sockets of which two or more should be given.

        Filtering is asked first: once the other port was sent to, even a strict NAT lets it in;
        to learn that it does not takes ANSWER_S. The mapping alone takes one round trip.
        A second measurement of the same socket within minutes keeps the filtering of the first.
        """
        asked = list(dict.fromkeys(reflectors))[:REFLECTORS_MAX]
        filtering = self.hints.filtering
        if asked and with_filtering and filtering is Filtering.UNKNOWN:
            filtering = await self._filtering(asked[0])
        # Begun in this order: the order of a symmetric NAT's ports shows its step.
        answers = await asyncio.gather(*(self._try_observe(each) for each in asked))
        seen = [observed for observed in answers if observed is not None]
        self.observed = tuple(dict.fromkeys((o.host, o.port) for o in seen))
        ports = tuple(o.port for o in seen if o.host == seen[0].host)
        self.hints = NATHints(_mapping(seen, local_hosts(listen_host)), filtering, ports)
        return self.hints

    async def keep(
        self, reflectors: Sequence[SocketAddress], on_change: Callable[[], None]
    ) -> None:
        """Hold the mapping open until cancelled; `on_change` when the address seen has changed.

        Each reflector's answer is compared with its last one, so that a symmetric NAT's differing
        ports are no change. Measure again after a change.
        """
        asked = list(dict.fromkeys(reflectors))[:REFLECTORS_MAX]
        last: dict[SocketAddress, tuple[str, int]] = {}
        misses = 0
        while asked:
            has_changed = False
            answers = await asyncio.gather(*(self._try_observe(each) for each in asked))
            for each, observed in zip(asked, answers, strict=True):
                if observed is None:
                    continue
                address = observed.host, observed.port
                has_changed = has_changed or last.get(each, address) != address
                last[each] = address
            misses = 0 if any(answers) else misses + 1
            if misses == MISSES_MAX:
                has_changed, last = True, {}
            self.observed = tuple(dict.fromkeys(last.values()))
            if has_changed:
                self.hints = NATHints()  # of another NAT
                on_change()
            await asyncio.sleep(self._refresh_s)

    async def _filtering(self, reflector: SocketAddress) -> Filtering:
        first = await self._try_observe(reflector)
        if first is None or not first.has_other_port:
            return Filtering.UNKNOWN
        try:
            await self.observe(reflector, self._answer_s, from_other_port=True)
        except TimedOut:
            return Filtering.PORT_DEPENDENT
        return Filtering.OPEN

    async def _try_observe(self, reflector: SocketAddress) -> Observed | None:
        try:
            return await self.observe(reflector, self._answer_s)
        except TimedOut:
            return None


def _mapping(seen: Sequence[Observed], own_hosts: Sequence[str]) -> Mapping:
    if not seen:
        return Mapping.UNKNOWN
    if any(observed.host in own_hosts for observed in seen):
        return Mapping.NONE
    mapping = Mapping.UNKNOWN
    for is_ipv6 in (False, True):
        same = [observed for observed in seen if (":" in observed.host) is is_ipv6]
        if len({observed.source for observed in same}) < 2:
            continue
        if len({(observed.host, observed.port) for observed in same}) > 1:
            return Mapping.DEPENDENT
        mapping = Mapping.INDEPENDENT
    return mapping
