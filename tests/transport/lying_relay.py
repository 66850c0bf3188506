"""A relay's UDP side that misbehaves, each lie by itself; and a control plane that lends it."""

import asyncio
import random

from protocol.datagram import Bind, Bound, Reflect, Reflected
from protocol.relay_messages import (
    FORWARD_BYTES_MAX,
    FORWARD_PROTOCOL,
    WHERE_PROTOCOL,
    ForwardGrant,
    ForwardRequest,
    RefusalCode,
    Refused,
    Where,
)
from tests.transport.wires import Address, FakeRelay, Port, Side
from transport.control.base import ControlStream
from transport.control.messages import read_message, write_message
from transport.control.testing import FakeControl, FakeControlHost


class LyingRelay(FakeRelay):
    """Honest until told otherwise; `dice` decides what happens to which datagram."""

    def __init__(self, seed: int = 1, host: str = "127.0.0.1") -> None:
        super().__init__(host)
        self.dice = random.Random(seed)
        self.lost = self.doubled = self.delayed = self.damaged = 0.0
        """Shares of FORWARDED datagrams."""
        self.late_s = 0.02
        self.is_mixing = False
        """Whatever it forwards goes to every other circuit too, under either name."""
        self.binds_all = False
        """BOUND, with the other side there, to every BIND; nothing is forwarded."""
        self.victim: Address | None = None
        """What everybody is told to be seen as."""
        self.grants_at: Address | None = None
        """Where its circuits are said to be, instead of here."""
        self.refuses = False
        """Of UDP circuits."""

    def take(self, data: bytes, source: Address) -> None:
        if data[0] != 8:
            super().take(data, source)
        elif not self.binds_all and self.dice.random() >= self.lost:
            self.carry(data, source)

    def carry(self, data: bytes, source: Address) -> None:
        dice = self.dice
        if self.is_mixing:
            self.mix(data)
        for _ in range(2 if dice.random() < self.doubled else 1):
            passed = data
            if dice.random() < self.damaged:
                at = dice.randrange(9, len(data))
                passed = data[:at] + bytes((data[at] ^ 1 + dice.randrange(255),)) + data[at + 1 :]
            if dice.random() < self.delayed:
                loop = asyncio.get_running_loop()
                loop.call_later(dice.random() * self.late_s, self.pass_on, passed, source)
            else:
                self.pass_on(passed, source)

    def pass_on(self, data: bytes, source: Address) -> None:
        if self.main.socket.fileno() >= 0:
            super().take(data, source)

    def mix(self, data: bytes) -> None:
        for name, sides in self.circuits.items():
            if name != data[1:9]:
                for side in sides:
                    if side.address is not None:
                        self.main.send(data, side.address)
                        self.main.send(b"\x08" + name + data[9:], side.address)

    def on_bind(self, data: bytes, source: Address) -> None:
        if not self.binds_all:
            super().on_bind(data, source)
            return
        bind = Bind.decode(data)
        sides = self.circuits.get(bind.circuit, (Side(bytes(32)), Side(bytes(32))))
        bound = Bound(bind.circuit, bind.side, bind.counter, is_other_bound=True)
        self.main.send(bound.encode(sides[bind.side].secret), source)

    def reflect(self, data: bytes, source: Address, port: Port) -> None:
        if self.victim is None:
            super().reflect(data, source, port)
            return
        asked = Reflect.decode(data)
        port = self.other if asked.from_other_port else port
        seen = Reflected(asked.transaction, *self.victim, asked.from_other_port, True)
        port.send(seen.encode(), source)

    def close(self) -> None:
        """Again is nothing: several pairs may share it."""
        if self.main.socket.fileno() >= 0:
            super().close()

    # The control plane's side

    def control(self, network: FakeControl) -> FakeControlHost:
        """A relay on that network whose UDP side this is."""
        host = network.relay()
        host.set_handler(WHERE_PROTOCOL, self.serve_where)
        host.set_handler(FORWARD_PROTOCOL, self.serve_forward)
        return host

    async def serve_where(self, stream: ControlStream) -> None:
        (host, port), (_, other) = self.main.address, self.other.address
        await write_message(stream, Where(host, (port, other)).encode())

    async def serve_forward(self, stream: ControlStream) -> None:
        ForwardRequest.decode(await read_message(stream, FORWARD_BYTES_MAX, timeout_s=5))
        if self.refuses:
            code = RefusalCode.RESOURCE_LIMIT_EXCEEDED
            await write_message(stream, Refused("forwarder.circuits_max is 1.", code).encode())
            return
        name = self.circuit()
        ours, theirs = (side.secret for side in self.circuits[name])
        host, port = self.grants_at or self.address
        await write_message(stream, ForwardGrant(name, ours, theirs, host, (port,), 0).encode())
        await stream.read(1)
