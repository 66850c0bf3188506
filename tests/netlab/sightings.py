"""What a NAT does, seen by bare sockets: two outside addresses with two ports each listen."""

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.netlab.lab import Lab
from tests.netlab.node import Host

__all__ = ["Sightings", "hears", "look", "udp"]

WAIT_S: Final = 0.12  # many times a round trip in here


@dataclass(frozen=True)
class Sightings:
    """`addresses`: the source that each of the four listeners saw; empty if nothing came."""

    addresses: tuple[tuple[str, int], ...]
    port: int  # of the host's own socket
    open_to_address: bool  # another port of the address spoken to gets in
    open_to_all: bool  # an address never spoken to gets in

    @property
    def keeps_mapping(self) -> bool:
        return len(set(self.addresses)) == 1

    @property
    def keeps_port(self) -> bool:
        return all(port == self.port for _, port in self.addresses)


def look(lab: Lab, host: Host, observer: Host, *, port: int = 0) -> Sightings:
    """Measure the NAT before `host`; `observer` is public with three addresses."""
    with contextlib.ExitStack() as closing:
        inside = closing.enter_context(udp(host, port=port))
        listeners = [
            closing.enter_context(udp(observer, observer.addresses[at // 2])) for at in range(4)
        ]
        seen = []
        for listener in listeners:
            inside.sendto(b"here", listener.getsockname())
            with contextlib.suppress(TimeoutError):
                seen.append(listener.recvfrom(64)[1])
        fresh, stranger = (
            closing.enter_context(udp(observer, observer.addresses[at])) for at in (0, 2)
        )
        to = seen[0] if seen else (lab.outside_ip(host), inside.getsockname()[1])
        return Sightings(
            tuple(seen),
            inside.getsockname()[1],
            hears(fresh, to, inside),
            hears(stranger, to, inside),
        )


@contextlib.contextmanager
def udp(node: Host, ip: str = "0.0.0.0", port: int = 0) -> Iterator[socket.socket]:
    """A bound UDP socket in a node, with a short timeout."""
    with node.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind((ip, port))
        made.settimeout(WAIT_S)
        yield made


def hears(sender: socket.socket, to: tuple[str, int], listener: socket.socket) -> bool:
    """Whether a datagram of `sender` to that address comes out at `listener`."""
    token = str(time.monotonic_ns()).encode()
    sender.sendto(token, to)
    try:
        while listener.recv(64) != token:
            pass
    except TimeoutError:
        return False
    return True
