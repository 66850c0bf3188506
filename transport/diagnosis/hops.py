"""The first routers on the way out: datagrams that die on the way, and who says that they did.

As traceroute does, but without privileges: Linux gives a socket that asks (IP_RECVERR, ip(7)) the
ICMP errors of its own datagrams. Other systems give them to root only; there, nothing is found.
"""

import asyncio
import contextlib
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Final

__all__ = ["HOPS", "first_hops"]

HOPS: Final = 3
"""The home's router, one behind it, and the carrier's: enough to see two NATs in a row."""

HOP_TIMEOUT_S: Final = 0.8
"""For all of them together; routers this near answer within some tens of milliseconds."""

_IP_RECVERR: Final = 11
_ORIGIN_ICMP: Final = 2
_TIME_EXCEEDED: Final = 11
_EXTENDED_ERROR: Final = struct.Struct("=IBBBxII")
"""sock_extended_err: errno, origin, type, code, info, data; the sender's sockaddr follows."""
_SENDER_AT: Final = _EXTENDED_ERROR.size + 4
_DATAGRAM: Final = bytes(32)
"""Begins with 0, which no relay or peer of ours takes for anything, should it arrive."""


async def first_hops(host: str, port: int) -> tuple[str, ...]:
    """IPv4 routers towards `host`, nearest first, as far as they tell; empty where none does."""
    if sys.platform != "linux" or ":" in host:
        return ()
    with contextlib.ExitStack() as closing:
        asking = [closing.enter_context(_send(host, port, hop)) for hop in range(1, HOPS + 1)]
        # a thread, as not every event loop tells a waiting error from a readable socket
        return await asyncio.to_thread(_listen, asking)


def _send(host: str, port: int, hop: int) -> socket.socket:
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
    asking.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hop)
    with contextlib.suppress(OSError):  # no route: nobody will answer
        asking.sendto(_DATAGRAM, (host, port))
    return asking


def _listen(asking: Sequence[socket.socket]) -> tuple[str, ...]:
    """The routers, in the order of the sockets, that answer in time."""
    waiting = {each.fileno(): index for index, each in enumerate(asking)}
    found: dict[int, str] = {}
    deadline = time.monotonic() + HOP_TIMEOUT_S
    poll = select.poll()
    for descriptor in waiting:
        poll.register(descriptor, 0)  # errors are always reported
    while len(found) < len(asking) and (left_s := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left_s * 1000):
            poll.unregister(descriptor)
            index = waiting[descriptor]
            if router := _sender(asking[index]):
                found[index] = router
    return tuple(found[index] for index in sorted(found))


def _sender(asking: socket.socket) -> str | None:
    """The router whose ICMP "time exceeded" waits at the socket."""
    try:
        _, control, _, _ = asking.recvmsg(0, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
    except OSError:
        return None
    for level, kind, data in control:
        if (level, kind) == (socket.IPPROTO_IP, _IP_RECVERR) and len(data) >= _SENDER_AT + 4:
            _, origin, icmp_type, *_ = _EXTENDED_ERROR.unpack_from(data)
            if (origin, icmp_type) == (_ORIGIN_ICMP, _TIME_EXCEEDED):
                return socket.inet_ntoa(data[_SENDER_AT : _SENDER_AT + 4])
    return None
