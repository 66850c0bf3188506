"""The UDP forwarder: circuits that carry datagrams unchanged between two bound addresses.

Pure: who may have a circuit, where its sides are, and where a datagram goes; `datagrams` reads and
sends. Two nodes agree on a circuit over the control plane, each side proves with its secret where
it is (BIND, protocol/datagram.py), and what then comes from one address goes to the other. What
is carried is QUIC, encrypted end to end: only its size is looked at.

A secret proves who asks, not that he is where he says: its holder could write a victim's address
as the source. So a BIND counts only with a cookie that was sent to its source before.

The owner, who asked for the circuit, pays for both ways with its allowance. Were the other charged,
anybody could use up a stranger's.
"""

import hashlib
import hmac
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from protocol.datagram import (
    CIRCUIT_BYTES,
    COOKIE_BYTES,
    DATAGRAM_KEY_BYTES,
    Bind,
    Bound,
    DatagramType,
    is_genuine,
)
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from relay.errors import limit_reached
from relay.resources import ForwarderLimits
from relay.usage import DropReason, PeerUsage, UsageTable
from transport.udp.udp_socket import SocketAddress

__all__ = ["Forwarder", "ForwarderStatistics", "Grant", "Side"]

_PREFIX: Final = bytes([DatagramType.FORWARDED])


@dataclass(frozen=True, slots=True)
class Grant:
    """A new circuit: each side gets its own secret, over its control connection, and no other."""

    circuit: bytes
    """8 random bytes."""
    secrets: tuple[bytes, bytes]
    """Of side 0, the owner, and of side 1, the other; 32 bytes each."""
    expires_at: float
    """On the clock of `now`: when it ends if neither side binds. Each use starts `idle_s` anew."""
    idle_s: float


@dataclass(frozen=True, slots=True)
class ForwarderStatistics:
    circuits: int
    circuits_allocated: int
    circuits_expired: int
    binds: int
    datagrams: int
    bytes: int
    """Passed on, with their 9 bytes of header."""
    drops: Mapping[DropReason, int]


class Side:
    """One end of a circuit. `address` is None until its first BIND."""

    __slots__ = ("address", "counter", "port", "secret", "usage")

    def __init__(self, usage: PeerUsage) -> None:
        self.secret = os.urandom(DATAGRAM_KEY_BYTES)
        self.counter = -1
        self.address: SocketAddress | None = None
        self.port = 0
        """Index of the relay's port at which it was bound: only what comes from there passes the
        NAT of this side."""
        self.usage = usage


class _Circuit:
    __slots__ = ("owner", "sides", "used_at")

    def __init__(self, owner: PeerId, sides: tuple[Side, Side], now: float) -> None:
        self.owner = owner
        self.sides = sides
        self.used_at = now


class Forwarder:
    """All circuits of a relay. Methods are called in one event loop; `now` is monotonic."""

    def __init__(self, limits: ForwarderLimits) -> None:
        self._limits = limits
        self._circuits: dict[bytes, _Circuit] = {}
        """By type byte and circuit: as a datagram begins."""
        self._of_owner: dict[PeerId, set[bytes]] = {}
        self._cookie_key = os.urandom(DATAGRAM_KEY_BYTES)
        """Not rotated. A cookie is of one circuit and ends with it. Until then who has left an
        address could still bind there; but he could as well have bound and then left."""
        self.usage = UsageTable(limits)
        self.drops: Counter[DropReason] = Counter()
        """Of the whole UDP side: who else drops a datagram counts it here too."""
        self._allocated = self._expired = self._binds = self._datagrams = self._bytes = 0

    def allocate(self, owner: PeerId, other: PeerId, now: float) -> Grant:
        """A circuit between these two. Raises RequestRefused, naming the limit reached."""
        limits = self._limits
        if len(self._of_owner.get(owner, ())) >= limits.circuits_per_peer_max:
            raise limit_reached("forwarder.circuits_per_peer_max", limits.circuits_per_peer_max)
        if len(self._circuits) >= limits.circuits_max and not self.expire(now):
            raise limit_reached("forwarder.circuits_max", limits.circuits_max)
        sides = (Side(self.usage.of(owner, now)), Side(self.usage.of(other, now)))
        for side in sides:
            side.usage.circuits += 1
        circuit = os.urandom(CIRCUIT_BYTES)
        while _PREFIX + circuit in self._circuits:
            circuit = os.urandom(CIRCUIT_BYTES)
        self._circuits[_PREFIX + circuit] = _Circuit(owner, sides, now)
        self._of_owner.setdefault(owner, set()).add(_PREFIX + circuit)
        self._allocated += 1
        secrets = (sides[0].secret, sides[1].secret)
        return Grant(circuit, secrets, now + limits.idle_s, limits.idle_s)

    def bind(self, data: bytes, source: SocketAddress, port: int, now: float) -> bytes | DropReason:
        """The BOUND for a BIND that came from `source` to our port of that index; or why none.

        Without the right cookie it changes nothing, its counter included, and is told the cookie.
        """
        try:
            bind = Bind.decode(data)
        except RemoteProtocolError:
            return DropReason.MALFORMED
        circuit = self._circuits.get(_PREFIX + bind.circuit)
        if circuit is None:
            return DropReason.FORGED_BIND
        side = circuit.sides[bind.side]
        if not is_genuine(data, side.secret):
            return DropReason.FORGED_BIND
        if bind.counter <= side.counter:
            return DropReason.REPLAYED_BIND
        cookie = self._cookie(bind, source, port)
        is_bound = hmac.compare_digest(bind.cookie, cookie)
        if is_bound:
            side.counter, side.address, side.port = bind.counter, source, port
            circuit.used_at = now
            self._binds += 1
        is_other_bound = circuit.sides[1 - bind.side].address is not None
        bound = Bound(bind.circuit, bind.side, bind.counter, is_other_bound, is_bound, cookie)
        return bound.encode(side.secret)

    def route(
        self, prefix: bytes, source: SocketAddress, datagrams: int, size_bytes: int, now: float
    ) -> Side | None:
        """Where these go, which all begin with `prefix` (9 bytes) and came from `source`.

        The side returned is bound, and the datagrams are counted as carried. None: they are
        dropped, and counted so.
        """
        circuit = self._circuits.get(prefix)
        if circuit is None:
            self.drops[DropReason.UNKNOWN_CIRCUIT] += datagrams
            return None
        near, far = circuit.sides
        if source != near.address:
            if source != far.address:
                self.drops[DropReason.WRONG_SOURCE] += datagrams
                return None
            near, far = far, near
        reason = (
            circuit.sides[0].usage.charge(size_bytes, now)
            if far.address is not None
            else DropReason.UNBOUND
        )
        if reason is not None:
            self.drops[reason] += datagrams
            near.usage.note_drop(reason, datagrams)
            return None
        circuit.used_at = now
        near.usage.datagrams_from += datagrams
        near.usage.bytes_from += size_bytes
        far.usage.datagrams_to += datagrams
        far.usage.bytes_to += size_bytes
        self._datagrams += datagrams
        self._bytes += size_bytes
        return far

    def release(self, circuit: bytes) -> None:
        """End a circuit; one that is not there is none's loss."""
        self._remove(_PREFIX + circuit)

    def expire(self, now: float) -> int:
        """End what has been idle for `idle_s`, and say how many that were."""
        last = now - self._limits.idle_s
        idle = [key for key, circuit in self._circuits.items() if circuit.used_at <= last]
        for key in idle:
            self._remove(key)
        self._expired += len(idle)
        return len(idle)

    def has(self, circuit: bytes) -> bool:
        """Whether that circuit has not ended."""
        return _PREFIX + circuit in self._circuits

    def circuits_of(self, owner: PeerId) -> int:
        return len(self._of_owner.get(owner, ()))

    def statistics(self) -> ForwarderStatistics:
        return ForwarderStatistics(
            circuits=len(self._circuits),
            circuits_allocated=self._allocated,
            circuits_expired=self._expired,
            binds=self._binds,
            datagrams=self._datagrams,
            bytes=self._bytes,
            drops=dict(self.drops),
        )

    def _cookie(self, bind: Bind, source: SocketAddress, port: int) -> bytes:
        """What only who receives at `source` can know (a BLAKE2b-64)."""
        place = bind.circuit + repr((bind.side, port, source)).encode()
        return hashlib.blake2b(place, digest_size=COOKIE_BYTES, key=self._cookie_key).digest()

    def _remove(self, key: bytes) -> None:
        circuit = self._circuits.pop(key, None)
        if circuit is None:
            return
        for side in circuit.sides:
            side.usage.circuits -= 1
        owned = self._of_owner[circuit.owner]
        owned.discard(key)
        if not owned:
            del self._of_owner[circuit.owner]
