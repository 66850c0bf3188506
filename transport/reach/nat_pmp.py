"""NAT-PMP: asking the home router to open a UDP port (RFC 6886).

The messages are pure; `request` sends one to the gateway and waits for its answer, with the RFC's
doubling intervals cut short: a router that speaks it answers within milliseconds.
"""

import asyncio
import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

from protocol.errors import RemoteProtocolError
from transport.errors import TimedOut, TransportError

__all__ = ["NAT_PMP_PORT", "GatewayRefused", "Mapped", "map_udp_port", "outside_address"]

NAT_PMP_PORT: Final = 5351

RETRY_S: Final = (0.25, 0.5, 1.0)
"""RFC 6886 section 3.1 begins with 250 ms and doubles nine times; who is silent for 1.75 s does
not speak it."""

_VERSION: Final = 0
_OUTSIDE: Final = 0
_MAP_UDP: Final = 1
_ANSWER: Final = 128
_RESULTS: Final = {
    1: "it does not speak this version",
    2: "mapping is switched off or forbidden there",
    3: "it has no connection itself",
    4: "it has no ports left",
    5: "it does not know this request",
}


class GatewayRefused(TransportError):
    """The router answered, and said no."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """An open port of the router. `host` may be empty where the router does not say it."""

    host: str
    port: int
    lifetime_s: int


async def outside_address(gateway: str, port: int = NAT_PMP_PORT) -> str:
    """The router's own outside address. Raises TimedOut, GatewayRefused, RemoteProtocolError."""
    answer = await _ask(gateway, port, struct.pack(">BB", _VERSION, _OUTSIDE))
    if len(answer) < 12:
        raise RemoteProtocolError("The router's NAT-PMP answer is cut short.")
    return str(ipaddress.IPv4Address(answer[8:12]))


async def map_udp_port(
    gateway: str, inside_port: int, lifetime_s: int, port: int = NAT_PMP_PORT
) -> Mapped:
    """Open the same port outside if it is free, else another; `lifetime_s` 0 closes it.

    Raises TimedOut, GatewayRefused or RemoteProtocolError.
    """
    wanted = inside_port if lifetime_s else 0
    request = struct.pack(">BBHHHI", _VERSION, _MAP_UDP, 0, inside_port, wanted, lifetime_s)
    answer = await _ask(gateway, port, request)
    if len(answer) < 16:
        raise RemoteProtocolError("The router's NAT-PMP answer is cut short.")
    inside, outside, granted_s = struct.unpack_from(">HHI", answer, 8)
    if inside != inside_port:
        raise RemoteProtocolError("The router answered for another port.")
    if not lifetime_s:
        return Mapped("", 0, 0)
    return Mapped(await outside_address(gateway, port), outside, granted_s)


async def _ask(gateway: str, port: int, request: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: _Exchange(request[1] + _ANSWER), remote_addr=(gateway, port)
    )
    try:
        for wait_s in RETRY_S:
            transport.sendto(request)
            done, _ = await asyncio.wait([protocol.answer], timeout=wait_s)
            if done:
                return protocol.answer.result()
    finally:
        transport.close()
        protocol.answer.cancel()
    raise TimedOut(f"The router at {gateway} does not speak NAT-PMP.")


class _Exchange(asyncio.DatagramProtocol):
    """Waits for the answer with one operation code; the socket is connected to the router."""

    def __init__(self, code: int) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._code = code

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self.answer.done() or len(data) < 8 or data[0] != _VERSION or data[1] != self._code:
            return
        result = int.from_bytes(data[2:4], "big")
        if result:
            reason = _RESULTS.get(result, f"its code is {result}")
            self.answer.set_exception(GatewayRefused(f"The router opens no port: {reason}."))
        else:
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(TimedOut("The router has nothing at NAT-PMP's port."))
