"""Who is in the cluster now, as this machine sees it. Sans-IO: `now` in monotonic seconds.

A member is a machine with which a proven stream stands and whose own record, come on that stream,
has not run out. What others say of a third machine is an introduction: where it may be dialled, and
nothing more. Only what came from a machine itself is passed on, so that the word of a dead one ends
with its last record.

Time runs from when a record came: the clocks of a house differ by more than a record lives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from node.cluster.errors import ClusterError
from protocol.envelope import Envelope, open_envelope
from protocol.errors import RemoteProtocolError, WrongSigner
from protocol.identity import PeerId
from protocol.machine import MachineRecord

__all__ = ["MACHINES_MAX", "Member", "Membership"]

MACHINES_MAX: Final = 64
"""Members of a cluster, ourselves among them: each talks to each, so 63 streams a machine."""

INTRODUCED_MAX: Final = 2 * MACHINES_MAX
"""Machines that are known by hearsay alone; the oldest word goes first."""


@dataclass(frozen=True, slots=True)
class Member:
    """A machine's newest record, and the signed bytes of it."""

    record: MachineRecord
    envelope: bytes
    expires_at: float


class Membership:
    """One machine's view. `set_own` comes before everything else."""

    def __init__(self, own: PeerId) -> None:
        self._own_id = own
        self._own: Member | None = None
        self._linked: dict[PeerId, int] = {}
        """Whose stream stands, and since when (joined_at_ms) that machine runs."""
        self._members: dict[PeerId, Member] = {}
        self._introduced: dict[PeerId, Member] = {}

    @property
    def own(self) -> MachineRecord:
        assert self._own is not None, "set_own comes first"
        return self._own.record

    def set_own(self, record: MachineRecord, envelope: Envelope, now: float) -> None:
        self._own = Member(record, envelope.encode(), now + record.lifetime_s)

    def linked(self, peer: PeerId, joined_at_ms: int) -> None:
        """A proven stream stands. Raises ClusterError when the cluster is full."""
        if peer not in self._linked and len(self._linked) >= MACHINES_MAX - 1:
            raise ClusterError(f"The cluster has its {MACHINES_MAX} machines already.")
        if self._linked.get(peer) != joined_at_ms:
            self._members.pop(peer, None)  # it was started again: its sequence may begin lower
        self._linked[peer] = joined_at_ms
        self._introduced.pop(peer, None)

    def unlinked(self, peer: PeerId) -> None:
        """Its stream is over: it is no member any more."""
        self._linked.pop(peer, None)
        self._members.pop(peer, None)

    def take(self, source: PeerId, envelope: bytes, now: float) -> bool:
        """A record that came on the stream of `source`; whether it was news.

        Raises RemoteProtocolError or VerificationError for what no honest machine sends.
        """
        opened = Envelope.decode(envelope)
        if opened.signer != source and opened.signer in (self._own_id, *self._linked):
            return False  # we have its own word
        record = open_envelope(MachineRecord, opened)
        if record.peer_id != opened.signer:
            raise WrongSigner("A machine speaks for itself only.")
        member = Member(record, envelope, now + record.lifetime_s)
        if record.peer_id == source:
            return self._take_own_word(member)
        return self._introduce(member)

    def expire(self, now: float) -> tuple[PeerId, ...]:
        """Forget what has run out; the members that are no more, whose streams are to be ended."""
        self._introduced = {p: m for p, m in self._introduced.items() if m.expires_at > now}
        expired = tuple(p for p, m in self._members.items() if m.expires_at <= now)
        for peer in expired:
            self.unlinked(peer)
        return expired

    def is_member(self, peer: PeerId) -> bool:
        return peer in self._members or peer == self._own_id

    def name_of(self, peer: PeerId) -> str:
        """As the machine calls itself; for people."""
        member = self._members.get(peer)
        return member.record.name if member else "a machine"

    def records(self) -> tuple[MachineRecord, ...]:
        """Of every member, ourselves too, in the order in which they came to the cluster."""
        records = [self.own, *(member.record for member in self._members.values())]
        return tuple(sorted(records, key=lambda r: (r.joined_at_ms, r.peer_id)))

    def introduced(self) -> tuple[MachineRecord, ...]:
        """Machines that members speak of and that are not linked: whom to dial."""
        return tuple(member.record for member in self._introduced.values())

    def words(self, listener: PeerId) -> Sequence[Member]:
        """What this machine passes on: its own record first, and each member's own word."""
        assert self._own is not None, "set_own comes first"
        others = [m for peer, m in self._members.items() if peer != listener]
        return [self._own, *others]

    def _take_own_word(self, member: Member) -> bool:
        record = member.record
        joined_at_ms = self._linked.get(record.peer_id)
        if joined_at_ms is None:
            return False  # its stream has just ended
        if record.joined_at_ms != joined_at_ms:
            raise RemoteProtocolError("The machine's record is of another start than its stream.")
        known = self._members.get(record.peer_id)
        if known is not None and record.sequence <= known.record.sequence:
            return False
        self._members[record.peer_id] = member
        return True

    def _introduce(self, member: Member) -> bool:
        peer = member.record.peer_id
        known = self._introduced.get(peer)
        if known is not None and member.record.sequence <= known.record.sequence:
            return False
        self._introduced.pop(peer, None)  # so that it stands last
        self._introduced[peer] = member
        if len(self._introduced) > INTRODUCED_MAX:
            del self._introduced[next(iter(self._introduced))]
        return True
