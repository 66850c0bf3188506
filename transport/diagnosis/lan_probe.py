"""What a look at the LAN shows: multicast out and back, and whether typed peers answer at all.

Only observes; `lan_diagnosis` says what it means. Everything sent is link-local multicast, or goes
to an address that a person typed.
"""

import asyncio
import errno
import secrets
import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from transport.errors import TransportError
from transport.interfaces import LocalAddress, interface_towards
from transport.lan.record import SERVICE_TYPE
from transport.lan.static import StaticDialler, parse_host_port

__all__ = ["MulticastProbe", "StaticProbe", "has_neighbour", "probe_multicast", "probe_static"]

GROUP: Final = ("224.0.0.251", 5353)
"""RFC 6762 section 3. Never forwarded by a router."""

LISTEN_S: Final = 1.5
"""Answers to a multicast question come within 0.5 s (section 6), and a busy machine is late."""

DATAGRAMS_MAX: Final = 1000
"""Looked at on one interface; the rest of a flood is not."""

TCP_TIMEOUT_S: Final = 4.0
"""Linux gives a neighbour that does not answer ARP up after 3 s."""

DIAL_TIMEOUT_S: Final = 3.0

_IP_MULTICAST_ALL: Final = 49
"""Linux: with 0 a socket hears only the interface whose group it joined."""

_LABELS: Final = ((SERVICE_TYPE, 12), ("_services._dns-sd._udp.local.", 12))


@dataclass(frozen=True, slots=True)
class MulticastProbe:
    """One interface: our question went out, and what was heard for a moment after it."""

    host: str
    bind_error: str = ""
    send_error: str = ""
    heard_own: bool = False
    other_hosts: int = 0
    """Machines whose multicast DNS was heard."""
    piecework_hosts: int = 0
    """Those among them that announce or ask for Piecework."""


@dataclass(frozen=True, slots=True)
class StaticProbe:
    """One typed address. None is: could not be told."""

    host: str
    port: int
    quic_error: str
    """Empty when a Piecework node answered."""
    tcp_answers: bool | None = None
    """An acceptance or a refusal: the machine is there."""
    local: LocalAddress | None = None
    """Our address on the same network; None where a router stands between."""
    has_hardware_address: bool | None = None
    """Whether it answered ARP."""


async def probe_multicast(
    hosts: Iterable[str], *, listen_s: float = LISTEN_S
) -> tuple[MulticastProbe, ...]:
    """One per IPv4 address of ours, all at once; takes `listen_s`."""
    ipv4 = [host for host in hosts if ":" not in host]
    own = frozenset(ipv4)
    return tuple(await asyncio.gather(*(_probe(host, own, listen_s) for host in ipv4)))


async def probe_static(
    peers: Sequence[str], dialler: StaticDialler, addresses: Sequence[LocalAddress]
) -> tuple[StaticProbe, ...]:
    """One per text `HOST:PORT`, all at once; a few seconds where nobody answers."""
    return tuple(await asyncio.gather(*(_probe_peer(p, dialler, addresses) for p in peers)))


async def _probe(host: str, own: frozenset[str], listen_s: float) -> MulticastProbe:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        try:
            _join(opened, host)
        except OSError as error:
            return MulticastProbe(host, bind_error=str(error))
        question = _question()
        heard: list[tuple[bytes, str]] = []
        loop.add_reader(opened, _read, opened, heard)
        try:
            opened.sendto(question, GROUP)
            await asyncio.sleep(listen_s)
        except OSError as error:
            return MulticastProbe(host, send_error=str(error))
        finally:
            loop.remove_reader(opened)
    others = [(data, source) for data, source in heard if source not in own]
    name = _encode_name(SERVICE_TYPE)[:-1]
    return MulticastProbe(
        host,
        heard_own=any(data == question for data, _ in heard),
        other_hosts=len({source for _, source in others}),
        piecework_hosts=len({source for data, source in others if name[:16] in data}),
    )


def _join(opened: socket.socket, host: str) -> None:
    opened.setblocking(False)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if sys.platform == "linux":
        opened.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
    opened.bind(("", GROUP[1]))
    interface = socket.inet_aton(host)
    opened.setsockopt(
        socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP[0]) + interface
    )
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)


def _read(opened: socket.socket, heard: list[tuple[bytes, str]]) -> None:
    try:
        data, (source, _) = opened.recvfrom(9000)
    except OSError:
        return  # taken by nobody, or an ICMP error of an earlier send
    if len(heard) < DATAGRAMS_MAX:
        heard.append((data, source))


def _question() -> bytes:
    """A multicast DNS question for our service and for whatever there is (RFC 6763 section 9).

    Its id means nothing to others (RFC 6762 section 18.1): by it we know our own again.
    """
    head = struct.pack(">HHHHHH", secrets.randbits(16), 0, len(_LABELS), 0, 0, 0)
    return head + b"".join(
        _encode_name(name) + struct.pack(">HH", kind, 1) for name, kind in _LABELS
    )


def _encode_name(name: str) -> bytes:
    labels = name.rstrip(".").encode().split(b".")
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


async def _probe_peer(
    peer: str, dialler: StaticDialler, addresses: Sequence[LocalAddress]
) -> StaticProbe:
    host, port = parse_host_port(peer)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError) as error:
        return StaticProbe(host, port, f"the name is not known ({error or 'no answer'})")
    literal = str(found[0][4][0])
    try:
        connection = await dialler.connect_at(literal, port, timeout_s=DIAL_TIMEOUT_S)
    except (TransportError, OSError) as error:
        tcp_answers = await _answers_tcp(literal, port)
        return StaticProbe(
            host,
            port,
            str(error),
            tcp_answers,
            interface_towards(literal, addresses),
            has_neighbour(literal),
        )
    await connection.close()
    return StaticProbe(host, port, "", local=interface_towards(literal, addresses))


async def _answers_tcp(host: str, port: int) -> bool:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as opened:
        opened.setblocking(False)
        try:
            async with asyncio.timeout(TCP_TIMEOUT_S):
                await loop.sock_connect(opened, (host, port))
        except TimeoutError:
            return False
        except OSError as error:
            return error.errno == errno.ECONNREFUSED
    return True


def has_neighbour(host: str, table: Path = Path("/proc/net/arp")) -> bool | None:
    """Whether the kernel knows the hardware address of that neighbour; None where it cannot say."""
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return None
    for line in lines:
        address, _, flags, hardware, *_ = line.split()
        if address == host:
            # if_arp.h ATF_COM: the entry is complete
            return bool(int(flags, 16) & 2) and hardware != "00:00:00:00:00:00"
    return None
