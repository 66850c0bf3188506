"""What two neighbours say of the link between them, compared. Pure; ledger and auditors share it.

A hop's receipt says what has come in on one link and gone out on the other: a rolling hash of every
frame, begun anew with each epoch, and bytes since the lease began. What hop k has sent is what hop
k+1 has received, so wherever both have a receipt at the same step of the same epoch the two must
agree. Two that do not cannot both be true, and both were signed.

Compared are links between two hops. The head's own (into the first hop, out of the last, and the
loop of an open route) are the payer's to compare: it signs for what it saw itself. Before an
epoch's first step the hashes are those of a replay that may be half done; they say nothing. Bytes
are compared where both ends count the same tokens. Every row that a hop counts has come in to it;
a row that it was sent again by a REPLAY it passes on without billing it as sent.

Who pays can choose when it replays, and may have a second route under the same session. Neither may
set two honest hops against one another: so a sender may have sent less than was received where its
own word shows a replay, and across holds only those are neighbours of whom one's lease names the
other.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ledger.lane import Watermark
from protocol.identity import PeerId
from protocol.lease import Lease

__all__ = ["LinkEnds", "Mismatch", "Place", "find_mismatches", "loose_ends", "touched"]


class Place(Protocol):
    """Where a lease stands; a `Lease`, or what an auditor keeps of one."""

    @property
    def lease_id(self) -> bytes: ...

    @property
    def session_id(self) -> bytes: ...

    @property
    def hold_id(self) -> bytes: ...

    @property
    def provider(self) -> PeerId: ...

    @property
    def hop_index(self) -> int: ...

    @property
    def hop_count(self) -> int: ...


@dataclass(frozen=True, slots=True)
class LinkEnds:
    """What one lease's receipt says of both links of its hop, at one step."""

    lease_id: bytes
    session_id: bytes
    hold_id: bytes
    provider: PeerId
    hop_index: int
    hop_count: int
    epoch: int
    steps: int
    tokens: int
    bytes_in: int
    bytes_out: int
    link_in_hash: bytes
    link_out_hash: bytes
    previous: PeerId | None = None
    """Whom the lease names before and behind the hop; None where an auditor does not keep it."""
    next: PeerId | None = None

    @classmethod
    def of(cls, lease: Place, mark: Watermark) -> "LinkEnds":
        named = (lease.previous, lease.next) if isinstance(lease, Lease) else (None, None)
        return cls(
            lease_id=lease.lease_id,
            session_id=lease.session_id,
            hold_id=lease.hold_id,
            provider=lease.provider,
            hop_index=lease.hop_index,
            hop_count=lease.hop_count,
            epoch=mark.epoch,
            steps=mark.steps,
            tokens=mark.tokens,
            bytes_in=mark.work.bytes_in,
            bytes_out=mark.work.bytes_out,
            link_in_hash=mark.link_in_hash,
            link_out_hash=mark.link_out_hash,
            previous=named[0],
            next=named[1],
        )


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One link of which its two ends say different things."""

    sender: LinkEnds
    receiver: LinkEnds

    def __str__(self) -> str:
        return (
            f"after step {self.sender.steps} of epoch {self.sender.epoch}, hop"
            f" {self.sender.hop_index} sent other than hop {self.receiver.hop_index} received"
        )


def find_mismatches(ends: Iterable[LinkEnds]) -> list[Mismatch]:
    """Every pair of neighbours of one session that contradict one another, in their order."""
    at: dict[tuple[bytes, int, int, int], list[LinkEnds]] = defaultdict(list)
    for end in ends:
        if end.steps:
            at[end.session_id, end.epoch, end.steps, end.hop_index].append(end)
    found: list[Mismatch] = []
    for (session_id, epoch, steps, hop_index), senders in sorted(at.items()):
        receivers = at.get((session_id, epoch, steps, hop_index + 1), ())
        found += [
            Mismatch(sender, receiver)
            for sender in senders
            for receiver in receivers
            if _are_neighbours(sender, receiver) and not _agree(sender, receiver)
        ]
    return found


def loose_ends(ends: Sequence[LinkEnds]) -> list[LinkEnds]:
    """Those that carried something and have a neighbour that nobody among `ends` stands for."""
    present = {(end.session_id, end.epoch, end.steps, end.hop_index) for end in ends}
    return [
        end
        for end in ends
        if end.steps
        and any(
            (end.session_id, end.epoch, end.steps, index) not in present
            for index in (end.hop_index - 1, end.hop_index + 1)
            if 0 <= index < end.hop_count
        )
    ]


def touched(mismatches: Iterable[Mismatch]) -> set[bytes]:
    """Leases at either end of a mismatch."""
    return {end.lease_id for each in mismatches for end in (each.sender, each.receiver)}


def _are_neighbours(sender: LinkEnds, receiver: LinkEnds) -> bool:
    """Whether these two, whose places touch, stood beside one another.

    Of a route that was leased at once they did. Later, who takes a lost hop's place names whom it
    stands beside; on two routes of one session nobody names anybody of the other.
    """
    if sender.hold_id == receiver.hold_id or sender.next is None or receiver.previous is None:
        return True
    return sender.next == receiver.provider or receiver.previous == sender.provider


def _agree(sender: LinkEnds, receiver: LinkEnds) -> bool:
    if sender.link_out_hash != receiver.link_in_hash:
        return False
    if sender.tokens != receiver.tokens:
        return True  # a hop that found rows of a prefix has not received them
    if sender.bytes_out > receiver.bytes_in:
        return False
    # rows that a replay brought to the sender went on unbilled: more came in than went out
    return sender.bytes_out == receiver.bytes_in or sender.bytes_in != sender.bytes_out
