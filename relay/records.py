"""The signed records that a rendezvous keeps: by namespace and signer, until they expire. Pure.

The relay does not know what they say, only who says it, from when and until when. `now_s` is unix
seconds. What is given out is the signer's own bytes, so the relay can hide a record but not alter
one.
"""

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from dataclasses import dataclass, field

from protocol.envelope import Envelope, open_fields
from protocol.errors import RecordExpired, RemoteProtocolError, WrongSigner
from protocol.identity import PeerId
from protocol.limits import RECORD_CLOCK_SKEW_S
from protocol.rendezvous_messages import (
    DISCOVER_RECORD_BYTES_MAX,
    Discover,
    Discovered,
    Register,
)
from relay.errors import limit_reached
from relay.resources import RendezvousLimits

__all__ = ["Records"]


@dataclass(frozen=True, slots=True)
class _Entry:
    record: bytes
    issued_at_s: int
    expires_at_s: int


@dataclass(slots=True)
class _Namespace:
    """`keys` is sorted, so that a page is found without walking those before it."""

    keys: list[bytes] = field(default_factory=list)
    entries: dict[bytes, _Entry] = field(default_factory=dict)


class Records:
    """The table; bounded in all and per peer, of whom one record a namespace is kept."""

    def __init__(self, limits: RendezvousLimits) -> None:
        self._limits = limits
        self._namespaces: dict[str, _Namespace] = {}
        self._of_peer: Counter[PeerId] = Counter()

    def __len__(self) -> int:
        return self._of_peer.total()

    def register(self, peer: PeerId, request: Register, now_s: float) -> int:
        """Verify and keep; until when, in unix seconds.

        Raises RemoteProtocolError, VerificationError, or RequestRefused that names the limit.
        """
        entry = self._verify(peer, request.record, now_s)
        before = self._entry(request.namespace, peer)
        if before is not None and before.issued_at_s > entry.issued_at_s:
            raise RecordExpired("A record of that peer that was issued later is known already.")
        if before is None:
            self._make_room(peer, now_s)
            namespace = self._namespaces.setdefault(request.namespace, _Namespace())
            insort(namespace.keys, peer.public_key)
            self._of_peer[peer] += 1
        self._namespaces[request.namespace].entries[peer.public_key] = entry
        return entry.expires_at_s

    def unregister(self, peer: PeerId, name: str) -> None:
        """Forget that peer's record there, if there is one."""
        if self._entry(name, peer) is None:
            return
        namespace = self._namespaces[name]
        del namespace.entries[peer.public_key]
        del namespace.keys[bisect_left(namespace.keys, peer.public_key)]
        if not namespace.keys:
            del self._namespaces[name]
        self._of_peer[peer] -= 1
        if not self._of_peer[peer]:
            del self._of_peer[peer]

    def discover(self, request: Discover, now_s: float) -> Discovered:
        """One page of the records that hold now."""
        namespace = self._namespaces.get(request.namespace, _Namespace())
        keys = namespace.keys
        if request.peer is not None:
            wanted = request.peer.public_key
            keys = [wanted] if wanted in namespace.entries else []
        start = 0 if request.after is None else bisect_right(keys, request.after.public_key)
        records, room_bytes, last = [], DISCOVER_RECORD_BYTES_MAX, b""
        for key in keys[start : start + request.limit]:
            entry = namespace.entries[key]
            if len(entry.record) > room_bytes:
                break
            last = key
            if now_s < entry.expires_at_s:
                records.append(entry.record)
                room_bytes -= len(entry.record)
        is_more = bool(last) and last != keys[-1]
        return Discovered(tuple(records), next=PeerId(last) if is_more else None)

    def expire(self, now_s: float) -> None:
        """Forget what does not hold any more. Walks the table: for a timer, not for requests."""
        gone = [
            (name, PeerId(key))
            for name, namespace in self._namespaces.items()
            for key, entry in namespace.entries.items()
            if now_s >= entry.expires_at_s
        ]
        for name, peer in gone:
            self.unregister(peer, name)

    def _entry(self, name: str, peer: PeerId) -> _Entry | None:
        namespace = self._namespaces.get(name)
        return None if namespace is None else namespace.entries.get(peer.public_key)

    def _make_room(self, peer: PeerId, now_s: float) -> None:
        limits = self._limits
        if self._of_peer[peer] >= limits.records_per_peer_max:
            self._expire_of(peer, now_s)
            if self._of_peer[peer] >= limits.records_per_peer_max:
                raise limit_reached("rendezvous.records_per_peer_max", limits.records_per_peer_max)
        if len(self) >= limits.records_max:
            raise limit_reached("rendezvous.records_max", limits.records_max)

    def _expire_of(self, peer: PeerId, now_s: float) -> None:
        names = [
            name
            for name, namespace in self._namespaces.items()
            if (entry := namespace.entries.get(peer.public_key)) and now_s >= entry.expires_at_s
        ]
        for name in names:
            self.unregister(peer, name)

    def _verify(self, peer: PeerId, record: bytes, now_s: float) -> _Entry:
        """Signed by the peer itself, about itself, and holding now."""
        envelope = Envelope.decode(record)
        if envelope.signer != peer:
            raise WrongSigner("A peer registers its own records only.")
        fields = open_fields(envelope)
        issued_at_s, expires_at_s = (
            _seconds(fields, "issued_at_s"),
            _seconds(fields, "expires_at_s"),
        )
        subject = fields.get("peer_id", peer.public_key) if isinstance(fields, dict) else None
        if subject != peer.public_key:
            raise WrongSigner("The record is about another peer than its signer.")
        if now_s >= expires_at_s:
            raise RecordExpired(f"The record expired {now_s - expires_at_s:.0f} s ago.")
        if now_s < issued_at_s - RECORD_CLOCK_SKEW_S:
            raise RecordExpired("The record has not begun.", hint="Check this machine's clock.")
        if expires_at_s - now_s > self._limits.record_lifetime_s + RECORD_CLOCK_SKEW_S:
            raise limit_reached("rendezvous.record_lifetime_s", self._limits.record_lifetime_s)
        return _Entry(record, issued_at_s, expires_at_s)


def _seconds(fields: object, name: str) -> int:
    value = fields.get(name) if isinstance(fields, dict) else None
    if not isinstance(value, int) or isinstance(value, bool):
        raise RemoteProtocolError(f"A record here has {name}, in unix seconds.")
    return value
