"""Who may open a session here. A lease is verified offline: no call to the marketplace.

Every condition is spelled out, one a line, because each is a way to be cheated.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol

from protocol.envelope import Envelope, check_time, open_envelope
from protocol.errors import ErrorCode, PieceworkError, RemoteProtocolError, SessionError
from protocol.frame import Open
from protocol.identity import PeerId
from protocol.lease import Lease
from protocol.limits import HOPS_MAX
from protocol.route import Span

__all__ = [
    "Admission",
    "LeaseAdmission",
    "MembersAdmission",
    "OwnAdmission",
    "ServedShard",
    "extended",
]

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

    def admit(self, request: Open, head: PeerId) -> Lease | None:
        """A session that is not here yet: new, or repaired with this hop in a lost one's place."""
        ...

    def readmit(self, request: Open, head: PeerId, lease: Lease | None) -> Lease | None:
        """A later epoch of a session that is held here under `lease`.

        Gives what it rests on from then on: `lease` with the neighbours as they are now, or, where
        the head brings another lease for this hop, that one, whose work is counted from nothing.
        """
        ...


class OwnAdmission:
    """For a private node: only the named peers may open sessions, and nothing is paid."""

    def __init__(self, shard: ServedShard, heads: Collection[PeerId]) -> None:
        self._shard = shard
        self._heads = frozenset(heads)

    def admit(self, request: Open, head: PeerId) -> None:
        if head not in self._heads:
            raise SessionError("This node serves its own owner only.", code=ErrorCode.NOT_ADMITTED)
        _check_shard(request, self._shard)

    def readmit(self, request: Open, head: PeerId, lease: Lease | None) -> None:
        self.admit(request, head)


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

    def readmit(self, request: Open, head: PeerId, lease: Lease | None) -> None:
        self.admit(request, head)


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
        _check_paid(request)
        _check_shard(request, self._shard)
        if request.lease is None:
            raise SessionError("A lease is needed here.", code=ErrorCode.NOT_ADMITTED)
        now_s = self._clock()
        lease = self._open(request.lease)
        _check_time(lease, now_s)
        if request.neighbours:  # one of them was lost before this hop could be opened
            lease = self._with_neighbours(lease, request)
        wrong = _first_difference(lease, request, head, self._shard)
        if wrong:
            raise _does_not_fit(wrong)
        self._use_once(lease, now_s)
        return lease

    def readmit(self, request: Open, head: PeerId, lease: Lease | None) -> Lease:
        _check_paid(request)
        assert lease is not None, "a session of the pool is held under a lease"
        if request.lease is not None and self._open(request.lease).lease_id != lease.lease_id:
            return self.admit(request, head)
        # the time to open by is over, and need not be kept: the session is here
        lease = self._with_neighbours(lease, request)
        wrong = _first_difference(lease, request, head, self._shard)
        if wrong:
            raise _does_not_fit(wrong)
        return lease

    def _with_neighbours(self, lease: Lease, request: Open) -> Lease:
        """The lease, with those in place of its neighbours who prove that they may stand there."""
        if lease.previous != request.previous:
            self._check_neighbour(lease, request, request.previous, step=-1)
        if lease.next != request.next:
            self._check_neighbour(lease, request, request.next, step=1)
        return replace(lease, previous=request.previous, next=request.next)

    def _check_neighbour(self, lease: Lease, request: Open, peer: PeerId, *, step: int) -> None:
        """Raise unless one of the leases that came along puts `peer` beside us."""
        side = "previous" if step < 0 else "next"
        reason = "no lease of it came along"
        for envelope in request.neighbours:
            theirs = self._open(envelope)
            if theirs.provider == peer:
                wrong = _first_mismatch(lease, theirs, step)
                if wrong is None:
                    _check_time(theirs, self._clock())
                    return
                reason = f"its lease has another {wrong}"
        raise SessionError(
            f"{peer.short} cannot be the {side} hop: {reason}.", code=ErrorCode.NOT_ADMITTED
        )

    def _open(self, envelope: bytes) -> Lease:
        try:
            return open_envelope(Lease, envelope, signer=self._market)
        except PieceworkError as error:
            raise SessionError(error.message, code=ErrorCode.NOT_ADMITTED) from error

    def _use_once(self, lease: Lease, now_s: float) -> None:
        self._used = {key: until for key, until in self._used.items() if until > now_s}
        if lease.lease_id in self._used:
            raise SessionError("The lease has been used.", code=ErrorCode.NOT_ADMITTED)
        if len(self._used) >= LEASES_REMEMBERED_MAX:
            raise SessionError("Too many leases at once.", code=ErrorCode.NO_CAPACITY)
        self._used[lease.lease_id] = lease.expires_at_s


def extended(envelope: bytes, admitted: bytes | None, lease: Lease) -> Lease:
    """`lease` with the higher limits that `envelope` brings.

    `admitted`: the envelope that the session was opened with, whose signature admission verified:
    who signed that one may raise it, and nobody else. Raises SessionError where somebody else did,
    or where it says anything else than the lease did.
    """
    try:
        if admitted is None:
            raise RemoteProtocolError("The session was not opened with a lease.")
        signed = open_envelope(Lease, envelope, signer=Envelope.decode(admitted).signer)
        # who stands beside this hop may have changed since the lease was signed
        grown = replace(signed, previous=lease.previous, next=lease.next)
        grown.check_grows_from(lease)
    except PieceworkError as error:
        raise SessionError(error.message, code=ErrorCode.NOT_ADMITTED) from error
    return grown


def _check_time(lease: Lease, now_s: float) -> None:
    try:
        check_time(lease, now_s)
    except PieceworkError as error:
        raise SessionError(error.message, code=ErrorCode.NOT_ADMITTED) from error


def _check_paid(request: Open) -> None:
    if request.standby:
        raise SessionError(
            "The pool does not sell standbys: open a session here when its hop is lost.",
            code=ErrorCode.NOT_ADMITTED,
        )


def _check_shard(request: Open, shard: ServedShard) -> None:
    if request.manifest_hash != shard.manifest_hash:
        raise SessionError("This hop holds another model.", code=ErrorCode.WRONG_SPAN)
    if not Span(shard.start, shard.end).contains(request.span):
        raise SessionError(
            f"This hop serves layers {shard.start}:{shard.end}, not {request.span}.",
            code=ErrorCode.WRONG_SPAN,
        )


def _does_not_fit(wrong: str) -> SessionError:
    return SessionError(
        f"The lease does not fit: its {wrong} differs.", code=ErrorCode.NOT_ADMITTED
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


def _first_mismatch(ours: Lease, theirs: Lease, step: int) -> str | None:
    """The first thing in which a neighbour's lease is not that of the hop `step` from ours."""
    towards_us = theirs.next if step < 0 else theirs.previous
    seam = (theirs.span.end, ours.span.start) if step < 0 else (ours.span.end, theirs.span.start)
    pairs: dict[str, tuple[object, object]] = {
        "session": (ours.session_id, theirs.session_id),
        "head": (ours.head, theirs.head),
        "payer": (ours.payer_key, theirs.payer_key),
        "model": (ours.manifest_hash, theirs.manifest_hash),
        "hop": ((ours.hop_index + step, ours.hop_count), (theirs.hop_index, theirs.hop_count)),
        "span": seam,
        "neighbour": (ours.provider, towards_us),
    }
    return next((name for name, (mine, its) in pairs.items() if mine != its), None)
