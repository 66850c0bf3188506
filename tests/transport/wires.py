"""Small networks on loopback whose cables can be cut: a relay's UDP side, and a pair of NATs."""

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from protocol.datagram import Bind, Bound, Reflect, Reflected, is_genuine
from transport.paths.forwarder_client import CircuitBinding
from transport.paths.path_address import CircuitPath
from transport.paths.probing import Probing

Address = tuple[str, int]


class Port:
    """A socket, on loopback as a rule, that hands what arrives to `take(data, source)`."""

    def __init__(self, take: Callable[[bytes, Address], None], host: str = "127.0.0.1") -> None:
        self.take = take
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        self.socket.setblocking(False)
        self.socket.bind((host, 0))
        self.address: Address = self.socket.getsockname()
        asyncio.get_running_loop().add_reader(self.socket, self.read)

    def read(self) -> None:
        for _ in range(64):
            try:
                self.take(*self.socket.recvfrom(65536))
            except BlockingIOError:
                return

    def send(self, data: bytes, target: Address) -> None:
        with contextlib.suppress(BlockingIOError):
            self.socket.sendto(data, target)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.socket)
        self.socket.close()


@dataclass
class Side:
    secret: bytes
    address: Address | None = None
    counter: int = 0


class FakeRelay:
    """A forwarder and a reflector with two ports; `is_cut` swallows everything."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.is_cut = False
        self.circuits: dict[bytes, tuple[Side, Side]] = {}
        self.forwarded_count = self.cookies_told = 0
        self.key = os.urandom(32)
        self.main, self.other = Port(self.take, host), Port(self.take_other, host)

    @property
    def address(self) -> Address:
        return self.main.address

    def circuit(self) -> bytes:
        name = os.urandom(8)
        self.circuits[name] = (Side(os.urandom(32)), Side(os.urandom(32)))
        return name

    def bind(self, probing: Probing, circuit: bytes, side: int, **options) -> CircuitBinding:
        path = CircuitPath(self.address, circuit)
        return CircuitBinding(probing, path, side, self.circuits[circuit][side].secret, **options)

    def take(self, data: bytes, source: Address) -> None:
        if self.is_cut:
            return
        if data[0] == 4:
            self.reflect(data, source, self.main)
        elif data[0] == 6:
            self.on_bind(data, source)
        elif data[0] == 8:
            near, far = self.circuits.get(data[1:9], (Side(b""), Side(b"")))
            if source == far.address:
                near, far = far, near
            if source == near.address and far.address is not None:
                self.forwarded_count += 1
                self.main.send(data, far.address)

    def take_other(self, data: bytes, source: Address) -> None:
        if not self.is_cut and data[0] == 4:
            self.reflect(data, source, self.other)

    def reflect(self, data: bytes, source: Address, port: Port) -> None:
        asked = Reflect.decode(data)
        if asked.from_other_port:
            port = self.other
        answer = Reflected(asked.transaction, *source, asked.from_other_port, has_other_port=True)
        port.send(answer.encode(), source)

    def on_bind(self, data: bytes, source: Address) -> None:
        bind = Bind.decode(data)
        sides = self.circuits.get(bind.circuit)
        if sides is None or not is_genuine(data, sides[bind.side].secret):
            return
        side, other = sides[bind.side], sides[1 - bind.side]
        if bind.counter <= side.counter:
            return
        cookie = self.cookie(bind, source)
        is_bound = bind.cookie == cookie
        if is_bound:
            side.counter, side.address = bind.counter, source
        else:
            self.cookies_told += 1
        is_other_bound = other.address is not None
        bound = Bound(bind.circuit, bind.side, bind.counter, is_other_bound, is_bound, cookie)
        self.main.send(bound.encode(side.secret), source)

    def cookie(self, bind: Bind, source: Address) -> bytes:
        place = repr((bind.circuit, bind.side, source)).encode()
        return hashlib.blake2b(place, digest_size=8, key=self.key).digest()

    def close(self) -> None:
        self.main.close()
        self.other.close()


class NATPair:
    """Hosts a and b see each other only as `seen_by_a` and `seen_by_b`; both can be changed."""

    def __init__(self, a: Address, b: Address) -> None:
        self.a, self.b = a, b
        self.is_cut = False
        self.bytes_max = 65536
        """Longer datagrams are lost: a narrow path."""
        self.count = 0
        self.near_a, self.near_b = Port(self.from_a), Port(self.from_b)

    @property
    def seen_by_a(self) -> Address:
        """Where a sends to reach b."""
        return self.near_a.address

    @property
    def seen_by_b(self) -> Address:
        return self.near_b.address

    def from_a(self, data: bytes, source: Address) -> None:
        if source == self.a:
            self.carry(data, self.near_b, self.b)

    def from_b(self, data: bytes, source: Address) -> None:
        if source == self.b:
            self.carry(data, self.near_a, self.a)

    def carry(self, data: bytes, port: Port, target: Address) -> None:
        if not self.is_cut and len(data) <= self.bytes_max:
            self.count += 1
            port.send(data, target)

    def reboot_a(self) -> None:
        """a's NAT forgets: b sees a at another address, and sends to the old one in vain."""
        self.near_b.close()
        self.near_b = Port(self.from_b)

    def reboot_b(self) -> None:
        self.near_a.close()
        self.near_a = Port(self.from_a)

    def close(self) -> None:
        self.near_a.close()
        self.near_b.close()
