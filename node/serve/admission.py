"""Who may open a session here. A lease is verified offline: no call to the marketplace.

Every condition is spelled out, one a line, because each is a way to be cheated.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from protocol.envelope import check_time, open_envelope
from protocol.errors import ErrorCode, PieceworkError, SessionError
from protocol.frame import Open
from protocol.identity import PeerId
from protocol.lease import Lease
from protocol.limits import HOPS_MAX
from protocol.route import Span

__all__ = ["Admission", "LeaseAdmission", "MembersAdmission", "OwnAdmission", "ServedShard"]

LEASES_REMEMBERED_MAX = 65_536
"""Leases already used, kept until they expire: a minute of a very busy node."""


@dataclass(frozen=True, slots=True)
class ServedShard:
    """What this node serves, as sessions see it."""

    peer_id: PeerId
    manifest_hash: bytes
    start: int
    end: int
    hidden_size: int


class Admission(Protocol):
    """Decides on an OPEN from `head`; gives the lease it rests on, or None where none is needed.

    Raises SessionError with the code the head is told.
    """

    def admit(self, request: Open, head: PeerId) -> Lease | None: ...


class OwnAdmission:
    """For a private node: only the named peers may open sessions, and nothing is paid."""

    def __init__(self, shard: ServedShard, heads: Collection[PeerId]) -> None:
        self._shard = shard
        self._heads = frozenset(heads)

    def admit(self, request: Open, head: PeerId) -> None:
        if head not in self._heads:
            raise SessionError("This node serves its own owner only.", code=ErrorCode.NOT_ADMITTED)
        _check_shard(request, self._shard)


class MembersAdmission:
    """For a cluster: whoever is a member at that moment may open sessions, and nothing is paid."""

    def __init__(self, shard: ServedShard, is_member: Callable[[PeerId], bool]) -> None:
        self._shard = shard
        self._is_member = is_member

    def admit(self, request: Open, head: PeerId) -> None:
        if not self._is_member(head):
            raise SessionError(
                "This machine serves its own cluster only.", code=ErrorCode.NOT_ADMITTED
            )
        _check_shard(request, self._shard)


class LeaseAdmission:
    """For the pool: a lease signed by the marketplace, for this hop, this head, and once."""

    def __init__(
        self,
        shard: ServedShard,
        market: PeerId,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._shard = shard
        self._market = market
        self._clock = clock
        self._used: dict[bytes, int] = {}

    def admit(self, request: Open, head: PeerId) -> Lease:
        _check_shard(request, self._shard)
        if request.lease is None:
            raise SessionError("A lease is needed here.", code=ErrorCode.NOT_ADMITTED)
        now_s = self._clock()
        try:
            lease = open_envelope(Lease, request.lease, signer=self._market)
            check_time(lease, now_s)
        except PieceworkError as error:
            raise SessionError(error.message, code=ErrorCode.NOT_ADMITTED) from error
        wrong = _first_difference(lease, request, head, self._shard)
        if wrong:
            raise SessionError(
                f"The lease does not fit: its {wrong} differs.", code=ErrorCode.NOT_ADMITTED
            )
        self._use_once(lease, now_s)
        return lease

    def _use_once(self, lease: Lease, now_s: float) -> None:
        self._used = {key: until for key, until in self._used.items() if until > now_s}
        if lease.lease_id in self._used:
            raise SessionError("The lease has been used.", code=ErrorCode.NOT_ADMITTED)
        if len(self._used) >= LEASES_REMEMBERED_MAX:
            raise SessionError("Too many leases at once.", code=ErrorCode.NO_CAPACITY)
        self._used[lease.lease_id] = lease.expires_at_s


def _check_shard(request: Open, shard: ServedShard) -> None:
    if request.manifest_hash != shard.manifest_hash:
        raise SessionError("This hop holds another model.", code=ErrorCode.WRONG_SPAN)
    if not Span(shard.start, shard.end).contains(request.span):
        raise SessionError(
            f"This hop serves layers {shard.start}:{shard.end}, not {request.span}.",
            code=ErrorCode.WRONG_SPAN,
        )


def _first_difference(lease: Lease, request: Open, head: PeerId, shard: ServedShard) -> str | None:
    """The first thing in which lease and request disagree, by name."""
    assert request.hop_count <= HOPS_MAX
    pairs: dict[str, tuple[object, object]] = {
        "provider": (lease.provider, shard.peer_id),
        "head": (lease.head, head),
        "session": (lease.session_id, request.session_id),
        "hop": ((lease.hop_index, lease.hop_count), (request.hop_index, request.hop_count)),
        "previous peer": (lease.previous, request.previous),
        "next peer": (lease.next, request.next),
        "model": (lease.manifest_hash, request.manifest_hash),
        "span": (lease.span, request.span),
        "hidden size": (lease.hidden_size, shard.hidden_size),
        "wire dtype": (lease.wire_dtype, request.wire_dtype),
    }
    for name, (granted, asked) in pairs.items():
        if granted != asked:
            return name
    return "capacity" if request.capacity_tokens > lease.tokens_max else None
