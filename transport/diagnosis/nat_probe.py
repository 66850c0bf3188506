"""Asking relays' reflectors about sockets of our own, to see what kind of NAT is in between.

One socket asks every port of every reflector: does its outside address change? Another asks one
port only, for an answer from the other: does it get in? The data socket is left in peace.
"""

import asyncio
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from protocol.datagram import TRANSACTION_BYTES, Reflect, Reflected
from protocol.errors import RemoteProtocolError
from transport.diagnosis.hops import first_hops
from transport.diagnosis.nat_type import NatObservation, Sighting

__all__ = ["ReflectorPorts", "observe_nat", "reflect_rtt_s"]

RETRY_S: Final = (0.3, 0.6, 1.2)
"""Datagrams are lost; who has not answered three is not there (or UDP is blocked)."""

OTHER_PORT_RETRY_S: Final = (0.3, 0.5)
"""Silence is the usual answer here, so less is waited for it."""

REFLECTORS_MAX: Final = 8
"""Ports asked: four relays with two each."""

_DATAGRAM_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class ReflectorPorts:
    """Where one relay reflects. `host` is a literal address."""

    host: str
    ports: tuple[int, ...]


async def observe_nat(
    reflectors: Sequence[ReflectorPorts], *, tcp_answers: bool, router_outside: str = ""
) -> NatObservation:
    """What the reflectors see; takes under 3 s. The relays are of one address family."""
    first = reflectors[0]
    asked = [(each.host, port) for each in reflectors for port in each.ports][:REFLECTORS_MAX]
    local_host = _local_host(first)
    async with _Asking(first.host) as asking:
        answers, other_port_heard, hops = await asyncio.gather(
            asyncio.gather(*(asking.ask(target) for target in asked)),
            _is_other_port_heard(first),
            first_hops(first.host, first.ports[0]),
        )
        local = (local_host, asking.port)
    sightings = tuple(
        Sighting(target, (answer.host, answer.port))
        for target, answer in zip(asked, answers, strict=True)
        if answer is not None
    )
    return NatObservation(
        local,
        sightings,
        other_port_heard=other_port_heard if sightings else None,
        tcp_answers=tcp_answers,
        hops=hops,
        router_outside=router_outside,
    )


async def reflect_rtt_s(reflector: ReflectorPorts) -> float | None:
    """One round trip over UDP, or None if nothing comes back. For any family."""
    loop = asyncio.get_running_loop()
    async with _Asking(reflector.host) as asking:
        began = loop.time()
        answer = await asking.ask((reflector.host, reflector.ports[0]))
        return None if answer is None else loop.time() - began


async def _is_other_port_heard(reflector: ReflectorPorts) -> bool | None:
    """None if the reflector has no other port, or does not answer at all."""
    target = (reflector.host, reflector.ports[0])
    async with _Asking(reflector.host) as asking:
        plain = await asking.ask(target)
        if plain is None or not plain.has_other_port:
            return None
        answer = await asking.ask(target, from_other_port=True, retry_s=OTHER_PORT_RETRY_S)
        return answer is not None and answer.from_other_port


class _Asking(asyncio.DatagramProtocol):
    """A socket of its own, asking REFLECT; used as `async with`."""

    def __init__(self, host: str) -> None:
        self._wildcard = "::" if ":" in host else "0.0.0.0"
        self._waiting: dict[bytes, asyncio.Future[Reflected]] = {}
        self._transport: asyncio.DatagramTransport | None = None
        self.port = 0

    async def __aenter__(self) -> "_Asking":
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=(self._wildcard, 0)
        )
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._transport is not None:
            self._transport.close()

    async def ask(
        self,
        target: tuple[str, int],
        *,
        from_other_port: bool = False,
        retry_s: Sequence[float] = RETRY_S,
    ) -> Reflected | None:
        """The answer, or None after the last retry."""
        if self._transport is None:
            return None
        transaction = os.urandom(TRANSACTION_BYTES)
        answer: asyncio.Future[Reflected] = asyncio.get_running_loop().create_future()
        self._waiting[transaction] = answer
        question = Reflect(transaction, from_other_port).encode()
        try:
            for wait_s in retry_s:
                self._transport.sendto(question, target)
                done, _ = await asyncio.wait([answer], timeout=wait_s)
                if done:
                    return answer.result()
        finally:
            del self._waiting[transaction]
        return None

    def datagram_received(self, data: bytes, addr: object) -> None:
        """The transaction is random and ours: who does not see the question cannot answer it."""
        if len(data) > _DATAGRAM_MAX:
            return
        try:
            reflected = Reflected.decode(data)
        except RemoteProtocolError:
            return
        answer = self._waiting.get(reflected.transaction)
        if answer is not None and not answer.done():
            answer.set_result(reflected)

    def error_received(self, exc: Exception) -> None:
        """An ICMP error, or no route: silence says the same, and later."""


def _local_host(reflector: ReflectorPorts) -> str:
    """The address of the interface that leads there; connecting a UDP socket sends nothing."""
    family = socket.AF_INET6 if ":" in reflector.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as leading:
        try:
            leading.connect((reflector.host, reflector.ports[0]))
        except OSError:
            return "::" if family == socket.AF_INET6 else "0.0.0.0"
        return cast("str", leading.getsockname()[0])
