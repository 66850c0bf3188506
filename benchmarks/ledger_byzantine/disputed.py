"""Open disputes as an operator reads them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import select

from ledger.database import Session, metadata
from ledger.dispute_models import DisputeLeaseRow, DisputeRow, MismatchRow
from ledger.rulings import Decision
from protocol.money import Nanos

__all__ = ["OpenDispute", "open_disputes"]

_DISPUTE = metadata.tables[DisputeRow.__tablename__]
_LEASE = metadata.tables[DisputeLeaseRow.__tablename__]
_MISMATCH = metadata.tables[MismatchRow.__tablename__]


@dataclass(slots=True)
class OpenDispute:
    """What a ruling is about."""

    dispute_id: bytes
    parked: dict[bytes, Nanos] = field(default_factory=dict)
    party_of: dict[bytes, str] = field(default_factory=dict)
    links: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def parties(self) -> list[tuple[str, str]]:
        return [(self.party_of[one], self.party_of[other]) for one, other in self.links]

    @property
    def to_providers(self) -> Sequence[Decision]:
        return [Decision(lease_id, nanos, 0) for lease_id, nanos in sorted(self.parked.items())]


def open_disputes(session: Session) -> list[OpenDispute]:
    """Every open dispute, by id."""
    query = select(_DISPUTE.c.dispute_id).where(_DISPUTE.c.state == "open")
    found: dict[bytes, OpenDispute] = defaultdict()
    for dispute_id in sorted(session.execute(query).scalars()):
        found[dispute_id] = OpenDispute(dispute_id)
    for row in session.execute(select(_LEASE)):
        if dispute := found.get(row.dispute_id):
            dispute.parked[row.lease_id] = row.parked_nanos
            dispute.party_of[row.lease_id] = row.provider
    for row in session.execute(select(_MISMATCH)):
        if dispute := found.get(row.dispute_id):
            dispute.links.append((row.sender_lease, row.receiver_lease))
    return list(found.values())
