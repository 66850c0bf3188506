"""Who has a slot at this relay, and through which connection; and who holds how many circuits.

Pure: `now` is monotonic seconds. A slot ends when its time is over or its connection is closed.
"""

import contextlib
import ipaddress
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from protocol.identity import PeerId
from protocol.relay_messages import RefusalCode
from relay.errors import limit_reached
from relay.resources import CircuitLimits
from transport.control.base import ControlConnection

__all__ = ["CircuitCounts", "Reservations", "Slot", "network_of"]

_IPV6_HOUSEHOLD_BITS = 64
"""What a provider gives to one line at least."""


@dataclass(slots=True)
class Slot:
    """One peer's reservation."""

    connection: ControlConnection
    network: str
    expires_at: float
    """Monotonic."""


class Reservations:
    """The table. A peer has one slot; reserving again renews it."""

    def __init__(self, limits: CircuitLimits) -> None:
        self._limits = limits
        self._slots: dict[PeerId, Slot] = {}
        self._networks: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._slots)

    def reserve(self, connection: ControlConnection, now: float) -> Slot:
        """A new or renewed slot. Raises RequestRefused that names the limit."""
        peer, network = connection.peer_id, network_of(connection.remote)
        before = self._slots.get(peer)
        if before is None and len(self._slots) >= self._limits.reservations_max:
            self.expire(now)  # only now: walking the table for each request would be its own attack
            if len(self._slots) >= self._limits.reservations_max:
                raise _refused("circuits.reservations_max", self._limits.reservations_max)
        is_new_there = before is None or before.network != network
        if is_new_there and self._networks[network] >= self._limits.reservations_per_host_max:
            raise _refused(
                "circuits.reservations_per_host_max", self._limits.reservations_per_host_max
            )
        self.release(peer)
        slot = Slot(connection, network, now + self._limits.reservation_duration_s)
        self._slots[peer] = slot
        self._networks[network] += 1
        return slot

    def find(self, peer: PeerId, now: float) -> Slot | None:
        """The slot that holds now, with its connection alive."""
        slot = self._slots.get(peer)
        if slot is None or now >= slot.expires_at or slot.connection.is_closed:
            return None
        return slot

    def release(self, peer: PeerId, connection: ControlConnection | None = None) -> None:
        """Forget the slot, if there is one; with `connection`, only if it is by that one."""
        slot = self._slots.get(peer)
        if slot is not None and connection in (None, slot.connection):
            del self._slots[peer]
            self._networks[slot.network] -= 1
            if not self._networks[slot.network]:
                del self._networks[slot.network]

    def expire(self, now: float) -> None:
        """Release every slot that does not hold any more."""
        for peer in [peer for peer in self._slots if self.find(peer, now) is None]:
            self.release(peer)


class CircuitCounts:
    """How many circuits there are: in all, of each peer as either end, from each household."""

    def __init__(self, limits: CircuitLimits) -> None:
        self._limits = limits
        self._of_peer: Counter[PeerId] = Counter()
        self._of_network: Counter[str] = Counter()
        self.count = 0

    @contextlib.contextmanager
    def claim(self, caller: PeerId, called: PeerId, network: str) -> Iterator[None]:
        """Hold one for both; `network` is the caller's. Raises RequestRefused, naming the limit."""
        if self.count >= self._limits.circuits_max:
            raise limit_reached("circuits.circuits_max", self._limits.circuits_max)
        for peer in (caller, called):
            if self._of_peer[peer] >= self._limits.circuits_per_peer_max:
                raise limit_reached(
                    "circuits.circuits_per_peer_max", self._limits.circuits_per_peer_max
                )
        if self._of_network[network] >= self._limits.circuits_per_host_max:
            raise limit_reached(
                "circuits.circuits_per_host_max", self._limits.circuits_per_host_max
            )
        self._add(caller, called, network, 1)
        try:
            yield
        finally:
            self._add(caller, called, network, -1)

    def _add(self, caller: PeerId, called: PeerId, network: str, count: int) -> None:
        self.count += count
        for peer in (caller, called):
            self._of_peer[peer] += count
            if not self._of_peer[peer]:
                del self._of_peer[peer]
        self._of_network[network] += count
        if not self._of_network[network]:
            del self._of_network[network]


def network_of(remote: str) -> str:
    """Whose line that is: the IPv4 address or the IPv6 /64 of `host:port`."""
    host = remote.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _IPV6_HOUSEHOLD_BITS), strict=False))
    return host


def _refused(limit: str, value: int) -> Exception:
    return limit_reached(limit, value, code=RefusalCode.RESERVATION_REFUSED)
