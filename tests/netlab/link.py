"""A link between two namespaces: a veth pair, or two TAPs and a wire; its rates, its cuts.

"Up" is from the first end to the second: from the home to the network.
"""

import re
from dataclasses import dataclass, replace
from typing import Any, Final

from tests.netlab.line import Counters, Impairment
from tests.netlab.namespace import LabError, Namespace
from tests.netlab.wire import Wires

__all__ = ["End", "Link", "Shape"]

FRAME_BYTES: Final = 1514
QUEUE_FRAMES: Final = 5000  # of a TAP: never the place where frames are dropped
BURST_S: Final = 0.001  # of a shaper's bucket; at least two frames, or it would stall
_CUT: Final = """
table netdev cut_{0} {{
    chain nothing {{
        type filter hook ingress device "{0}" priority -500; policy drop
    }}
}}
"""
_UNITS: Final = {"k": 10**3, "m": 10**6, "g": 10**9}


@dataclass(frozen=True, slots=True)
class Shape:
    """What a link does with packets; delay, jitter and loss are of each direction.

    up, down: rates as "20mbit", None being unlimited. queue_ms: how long a full queue before the
    rate takes to drain; a queue of n bandwidth-delay products is n round trips long.
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    reorders: bool = False
    up: str | None = None
    down: str | None = None
    queue_ms: float = 100.0
    mtu: int = 1500
    wire: bool = False

    @property
    def needs_wire(self) -> bool:
        """`wire=True` makes one where delay or loss shall come later only."""
        return bool(self.wire or self.delay_ms or self.jitter_ms or self.loss)


@dataclass(frozen=True, slots=True)
class End:
    """An interface of one namespace."""

    namespace: Namespace
    interface: str
    mac: str

    def know(self, ip: str, mac: str) -> None:
        """Write a neighbour's hardware address down for good: no ARP that could be lost."""
        self.namespace.ip(
            f"neigh replace {ip} lladdr {mac} dev {self.interface} nud permanent", ipv6=":" in ip
        )


class Link:
    """Two interfaces, up from the start."""

    def __init__(self, wires: Wires, near: End, far: End, shape: Shape) -> None:
        self.near, self.far = near, far
        self._wires, self._wire = wires, -1
        self._is_cut = False
        self._shape = Shape(mtu=shape.mtu)
        if shape.needs_wire:
            self._wire = wires.add(
                ((near.namespace, near.interface), (far.namespace, far.interface))
            )
        else:
            near.namespace.ip(
                f"link add {near.interface} type veth"
                f" peer name {far.interface} netns {far.namespace.name}"
            )
        for end in (near, far):
            queue = f" txqueuelen {QUEUE_FRAMES}" if shape.needs_wire else ""
            end.namespace.ip(
                f"link set {end.interface} address {end.mac} mtu {shape.mtu}{queue}",
                f"link set {end.interface} up",
            )
        self._apply(shape)

    def shape(self, **changes: Any) -> None:
        """Change some of the Shape at run time; delay and loss only if it began with a wire."""
        self._apply(replace(self._shape, **changes))

    def introduce(self, near_ip: str, far_ip: str) -> None:
        """Each end knows the other's hardware address without asking."""
        self.near.know(far_ip, self.far.mac)
        self.far.know(near_ip, self.near.mac)

    def cut(self) -> None:
        """Packets vanish, both ways, and nobody is told: the carrier stays, sending succeeds."""
        if self._is_cut:
            return
        for end in (self.near, self.far):
            end.namespace.nft(_CUT.format(end.interface))
        self._is_cut = True

    def heal(self) -> None:
        if self._is_cut:
            for end in (self.near, self.far):
                end.namespace.nft(f"delete table netdev cut_{end.interface}\n")
        self._is_cut = False

    def counters(self) -> tuple[Counters, Counters]:
        """Up and down, of a link with a wire."""
        self._require_wire()
        return self._wires.counters(self._wire)

    def _apply(self, shape: Shape) -> None:
        if shape.mtu != self._shape.mtu:
            raise LabError("A link keeps the MTU that it was made with.")
        impairment = Impairment(shape.delay_ms, shape.jitter_ms, shape.loss, shape.reorders)
        if impairment != Impairment():
            self._require_wire()
        if self._wire >= 0:
            self._wires.impair(self._wire, impairment)
        for end, rate, rate_before in (
            (self.near, shape.up, self._shape.up),
            (self.far, shape.down, self._shape.down),
        ):
            if rate:
                _limit(end, rate, shape.queue_ms)
            elif rate_before:
                end.namespace.run(["tc", "qdisc", "del", "dev", end.interface, "root"])
        self._shape = shape

    def _require_wire(self) -> None:
        if self._wire < 0:
            raise LabError("This link has no wire: give it wire=True, or a delay, when made.")


def _limit(end: End, rate: str, queue_ms: float) -> None:
    if not (parsed := re.fullmatch(r"([\d.]+)([kmg])bit", rate)):
        raise LabError(f"'{rate}' is not a rate: write 500kbit, 20mbit or 1gbit.")
    bits_per_s = float(parsed[1]) * _UNITS[parsed[2]]
    burst = max(2 * FRAME_BYTES, int(bits_per_s / 8 * BURST_S))
    shaper = f"tbf rate {int(bits_per_s)}bit burst {burst} latency {queue_ms}ms"
    end.namespace.run(["tc", "qdisc", "replace", "dev", end.interface, "root", *shaper.split()])
