"""What two neighbours say of the link between them, compared. Pure; ledger and auditors share it.

A hop's receipt says what has come in on one link and gone out on the other: a rolling hash of every
frame, begun anew with each epoch, and bytes since the lease began. What hop k has sent is what hop
k+1 has received, so wherever both have a receipt at the same step of the same epoch the two must
agree. Two that do not cannot both be true, and both were signed.

Compared are links between two hops. The head's own (into the first hop, out of the last, and the
loop of an open route) are the payer's to compare: it signs for what it saw itself. Before an
epoch's first step the hashes are those of a replay that may be half done; they say nothing. Bytes
are compared where both ends count them from the same start: the same tokens, before any repair.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ledger.lane import Watermark
from protocol.identity import PeerId

__all__ = ["LinkEnds", "Mismatch", "Place", "find_mismatches", "loose_ends", "touched"]


class Place(Protocol):
    """Where a lease stands; a `Lease`, or what an auditor keeps of one."""

    @property
    def lease_id(self) -> bytes: ...

    @property
    def session_id(self) -> bytes: ...

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

    @classmethod
    def of(cls, lease: Place, mark: Watermark) -> "LinkEnds":
        return cls(
            lease_id=lease.lease_id,
            session_id=lease.session_id,
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
            if not _agree(sender, receiver)
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


def _agree(sender: LinkEnds, receiver: LinkEnds) -> bool:
    if sender.link_out_hash != receiver.link_in_hash:
        return False
    # a replay is received but not billed as sent, and another lease counts from another start
    same_start = sender.epoch == 0 and sender.tokens == receiver.tokens
    return not same_start or sender.bytes_out == receiver.bytes_in
