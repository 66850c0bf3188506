"""Parking at settlement: which of the leases about to be settled contradict a neighbour.

Nobody gets what is parked until a ruling: were either end paid, a liar would gain by every quarrel.
Neighbours of one hold are compared in memory. A repaired session has several holds; a lease whose
neighbour is not among those settled with it is remembered as a loose end and compared when that
comes, and what was paid to it by then is parked as far as it is still there.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import select

from ledger.accounts import AccountCode, AccountRef
from ledger.database import Session, insert_missing, metadata
from ledger.dispute_models import DisputeKind, LooseEndRow
from ledger.disputes import Opening, ParkedLease, open_dispute, park_paid
from ledger.lanes import ROWS_PER_QUERY, Lane, load_lanes
from ledger.leaf import LaneCredit, ParkLeaf
from ledger.links import LinkEnds, Mismatch, find_mismatches, loose_ends, touched
from ledger.turns import take_turns
from protocol.lease import ID_BYTES

__all__ = ["Findings", "disputed_account", "look_for_mismatches", "open_disputes"]

_LOOSE = metadata.tables[LooseEndRow.__tablename__]


@dataclass(frozen=True, slots=True)
class Findings:
    """What a settlement's leases say against one another. Empty where all agree."""

    mismatches: Sequence[Mismatch] = ()
    parked: frozenset[bytes] = frozenset()
    """Leases among those about to be settled whose amount goes to `disputed`."""
    paid: Mapping[bytes, Lane] = field(default_factory=dict)
    """Leases settled before, under another hold, that contradict one of these."""

    @property
    def accounts(self) -> list[AccountRef]:
        """Between which `paid` is parked: locked together with all that a settlement books on."""
        return [
            account
            for lease_id, lane in self.paid.items()
            for account in (disputed_account(lease_id), _earned_by(lane))
        ]


def disputed_account(lease_id: bytes) -> AccountRef:
    """Where a lease's parked money lies."""
    return AccountRef(AccountCode.DISPUTED, lease_id.hex())


def look_for_mismatches(session: Session, lanes: Iterable[Lane]) -> Findings:
    """Compare the lanes that are about to be settled, and those of their sessions settled before.

    Remembers loose ends. One settlement of a session at a time looks for those of others: of two
    at once neither would see the other's, and what contradicts would be compared by nobody.
    """
    ends = [LinkEnds.of(lane.lease, lane.mark) for lane in lanes]
    loose = loose_ends(ends)
    if not loose:
        mismatches = find_mismatches(ends)
        return Findings(mismatches, frozenset(touched(mismatches)))
    session_ids = {end.session_id for end in loose}
    take_turns(session, "ledger.parking", session_ids)
    settled_before = _load_loose(session, session_ids)
    before = [LinkEnds.of(lane.lease, lane.mark) for lane in settled_before.values()]
    mismatches = find_mismatches([*ends, *before])
    # two that were settled before were compared then
    ours = {end.lease_id for end in ends}
    mismatches = [m for m in mismatches if {m.sender.lease_id, m.receiver.lease_id} & ours]
    insert_missing(
        session,
        _LOOSE,
        [{"lease_id": end.lease_id, "session_id": end.session_id} for end in loose],
    )
    guilty = touched(mismatches)
    paid = {lease_id: settled_before[lease_id] for lease_id in sorted(guilty - ours)}
    return Findings(mismatches, frozenset(guilty & ours), paid)


def open_disputes(
    session: Session,
    findings: Findings,
    lanes: Iterable[Lane],
    credited: Iterable[LaneCredit],
    buyers: Mapping[bytes, str],
    *,
    now_s: int,
) -> list[ParkLeaf]:
    """Write down what was found, one dispute for leases that hang together.

    lanes, credited: as they were settled. buyers: who was charged, by hold. Gives the log's entries
    for what had been paid before and is parked now.
    """
    credit_of = {credit.lease_id: credit for credit in credited}
    buyer_of = {lane.lease.session_id: buyers[lane.lease.hold_id] for lane in lanes}
    entries: list[ParkLeaf] = []
    for group in _hanging_together(findings.mismatches):
        leases = sorted(touched(group))
        session_id = group[0].sender.session_id
        dispute_id, buyer = _dispute_id(session_id, group), buyer_of[session_id]
        claim = "; ".join(str(mismatch) for mismatch in group)
        opening = Opening(
            dispute_id, DisputeKind.LINK_MISMATCH, session_id, claim, now_s, mismatches=group
        )
        parked = [
            ParkedLease(lease_id, str(credit.provider), credit.nanos, buyer)
            for lease_id in leases
            if (credit := credit_of.get(lease_id))
        ]
        open_dispute(session, opening, parked)
        for lease_id in leases:
            if lane := findings.paid.get(lease_id):
                entries += park_paid(
                    session, dispute_id, lane.lease, buyer=buyer,
                    sources=[_earned_by(lane)],
                    nanos=lane.mark.amount_nanos, reason=opening.kind.value, now_s=now_s,
                )  # fmt: skip
    return entries


def _earned_by(lane: Lane) -> AccountRef:
    return AccountRef(AccountCode.PROVIDER_EARNED, str(lane.lease.provider))


def _load_loose(session: Session, session_ids: Iterable[bytes]) -> dict[bytes, Lane]:
    """Settled, so nothing moves them any more: who holds one of them need not be waited for."""
    found: list[bytes] = []
    ordered = sorted(session_ids)
    for start in range(0, len(ordered), ROWS_PER_QUERY):
        query = select(_LOOSE.c.lease_id).where(
            _LOOSE.c.session_id.in_(ordered[start : start + ROWS_PER_QUERY])
        )
        found += session.execute(query).scalars()
    return load_lanes(session, found, lock=False) if found else {}


def _hanging_together(mismatches: Iterable[Mismatch]) -> list[list[Mismatch]]:
    """Mismatches that share a lease, together: its money can be parked but once."""
    groups: list[list[Mismatch]] = []
    for mismatch in mismatches:
        ours = touched([mismatch])
        joined = [group for group in groups if touched(group) & ours]
        groups = [group for group in groups if group not in joined]
        groups.append([*(each for group in joined for each in group), mismatch])
    return groups


def _dispute_id(session_id: bytes, group: Sequence[Mismatch]) -> bytes:
    """The same contradiction has the same id, however often it is looked at."""
    text = b"".join(sorted(touched(group)))
    return hashlib.sha256(b"piecework/dispute/v1\0" + session_id + text).digest()[:ID_BYTES]
