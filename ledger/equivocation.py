"""Equivocations in the database: kept as both byte strings, logged, and the session closed.

The provider is paid the larger of the two as far as its lease covers: the payer signed both. It is
the same provider that countersigned both, so whoever hands two in ends its own lease with that. An
honest provider never has a pair; it stops work at the first receipt that takes back.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import insert, select, update

from ledger.contradiction import EquivocationProof, contradicts
from ledger.database import Session, metadata
from ledger.dispute_models import EquivocationRow
from ledger.lanes import load_lanes
from ledger.leaf import EquivocationLeaf
from ledger.log import Log
from ledger.models import LaneRow, ReceiptRow
from ledger.settle_window import close_unless_busy
from protocol.errors import ProtocolError, VerificationError
from protocol.money import Nanos
from protocol.receipt import CosignedReceipt, Receipt

__all__ = ["PAIRS_MAX", "Pair", "latest_receipt", "load_proof", "record"]

PAIRS_MAX = 100
"""Of one batch: verified anew, each. What a provider hands in beyond is refused all the same."""

_EQUIVOCATION = metadata.tables[EquivocationRow.__tablename__]
_LANE = metadata.tables[LaneRow.__tablename__]
_RECEIPT = metadata.tables[ReceiptRow.__tablename__]


@dataclass(frozen=True, slots=True)
class Pair:
    """A receipt that counts, and one that came later and contradicts it; co-signed, encoded."""

    lease_id: bytes
    first: bytes
    second: bytes


def record(session: Session, pairs: Sequence[Pair], now_s: int) -> range:
    """Keep each pair that proves an equivocation, close its lease, and log it; gives the indexes.

    Call it when everything else of the batch is stored. One pair a lease is kept, of a settled
    lease none: what was charged stands. A pair that proves nothing is passed over.
    """
    pairs = pairs[:PAIRS_MAX]
    lanes = load_lanes(session, {pair.lease_id for pair in pairs})
    known = _known(session, lanes)
    proven: dict[bytes, tuple[Pair, Receipt, Receipt]] = {}
    for pair in pairs:
        lane = lanes.get(pair.lease_id)
        if lane is None or lane.settled or pair.lease_id in known | set(proven):
            continue
        try:
            first, second = (
                CosignedReceipt.decode(each).open(lane.lease) for each in (pair.first, pair.second)
            )
        except (ProtocolError, VerificationError):
            continue
        if contradicts(first, second):
            proven[pair.lease_id] = (pair, first, second)
    if not proven:
        return range(0)
    leaves = [
        EquivocationLeaf(lanes[lease_id].envelope, pair.first, pair.second)
        for lease_id, (pair, _, _) in proven.items()
    ]
    indexes = Log(session).append(leaves)
    rows = []
    for (lease_id, (pair, first, second)), index in zip(proven.items(), indexes, strict=True):
        counted = lanes[lease_id].mark.amount_nanos
        amount = max(counted, first.amount_nanos, second.amount_nanos)
        rows.append(
            {
                "lease_id": lease_id,
                "sequence": max(first.sequence, second.sequence),
                "first": pair.first,
                "second": pair.second,
                "amount_nanos": amount,
                "leaf_index": index,
                "found_at_s": now_s,
            }
        )
        _close_lane(session, lease_id, amount)
        close_unless_busy(session, lanes[lease_id].lease.hold_id)
    session.execute(insert(_EQUIVOCATION), rows)
    return indexes


def latest_receipt(session: Session, lease_id: bytes) -> bytes | None:
    """The co-signed receipt that counts for a lease: the other half of a pair."""
    query = (
        select(_RECEIPT.c.cosigned)
        .where(_RECEIPT.c.lease_id == lease_id)
        .order_by(_RECEIPT.c.sequence.desc())
        .limit(1)
    )
    return session.execute(query).scalar_one_or_none()


def load_proof(session: Session, lease_id: bytes) -> EquivocationProof | None:
    """The file that proves a lease's equivocation to anyone; None where there is none."""
    query = (
        select(_LANE.c.lease, _EQUIVOCATION.c.first, _EQUIVOCATION.c.second)
        .join_from(_EQUIVOCATION, _LANE, _LANE.c.lease_id == _EQUIVOCATION.c.lease_id)
        .where(_EQUIVOCATION.c.lease_id == lease_id)
    )
    row = session.execute(query).one_or_none()
    return EquivocationProof(*row) if row else None


def _known(session: Session, lease_ids: Iterable[bytes]) -> set[bytes]:
    query = select(_EQUIVOCATION.c.lease_id).where(_EQUIVOCATION.c.lease_id.in_(sorted(lease_ids)))
    return set(session.execute(query).scalars())


def _close_lane(session: Session, lease_id: bytes, amount: Nanos) -> None:
    """Nothing more counts under the lease."""
    lane = update(_LANE).where(_LANE.c.lease_id == lease_id)
    session.execute(lane.values(final=True, amount_received_nanos=amount))
