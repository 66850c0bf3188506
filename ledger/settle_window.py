"""Settling holds in the database: which are ready, and posting each one whole.

A hold is ready when it is closed and each of its leases has had its final receipt, or when its
time for receipts is over. One SQL transaction posts the buyer's charge, every provider's credit
and the fee, moves the watermarks, and appends the settlement to the log. What neighbours contradict
one another about goes to nobody: see `ledger/parking.py`.
"""

import functools
from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, and_, exists, insert, not_, or_, select, update

from ledger.accounts import AccountCode, AccountRef
from ledger.balances import changed_rows
from ledger.book import Book, Resolution, fee_of
from ledger.database import Session, metadata
from ledger.errors import HoldUnknown
from ledger.failpoint import reach
from ledger.lanes import lane_of
from ledger.leaf import LaneCredit, Leaf, SettlementLeaf
from ledger.log import Log
from ledger.models import HoldClosingRow, HoldRow, LaneRow
from ledger.parking import disputed_account, look_for_mismatches, open_disputes
from ledger.settlement import HoldSettlement, LaneState, settle_hold
from protocol.identity import PeerId
from protocol.money import Nanos

__all__ = [
    "SETTLED_AT_ONCE_MAX",
    "SettledHold",
    "close_unless_busy",
    "mark_closed",
    "settle_ready",
]

SETTLED_AT_ONCE_MAX = 500
"""Holds of one transaction: bounds how long the write lock is held."""

_PEERS_CACHED = 4096
"""A provider has many leases; its name in base 58 takes longer to read than its credit."""

_HOLD = metadata.tables[HoldRow.__tablename__]
_CLOSING = metadata.tables[HoldClosingRow.__tablename__]
_LANE = metadata.tables[LaneRow.__tablename__]


@dataclass(frozen=True, slots=True)
class SettledHold:
    """How one hold was resolved; charged = Σ credits + fee, the rest went back to the buyer."""

    hold_id: bytes
    buyer: str
    charged_nanos: Nanos
    fee_nanos: Nanos
    credits: tuple[LaneCredit, ...]
    leaf_index: int | None
    """None if no receipt ever came: the hold was released and the log says nothing."""


def mark_closed(session: Session, hold_id: bytes) -> None:
    """Say that the session is over; again is no error. Raises HoldUnknown.

    A closed hold settles as soon as every lease under it has had its final receipt.
    """
    was_open = update(_HOLD).where(_HOLD.c.hold_id == hold_id, not_(_HOLD.c.closed))
    if changed_rows(session, was_open.values(closed=True)) == 1:
        session.execute(insert(_CLOSING), {"hold_id": hold_id})
        return
    known = select(_HOLD.c.hold_id).where(_HOLD.c.hold_id == hold_id)
    if session.execute(known).one_or_none() is None:
        raise HoldUnknown(hold_id)


def close_unless_busy(session: Session, hold_id: bytes) -> None:
    """As `mark_closed`, but not of a hold that somebody else has locked: for who has lanes locked
    already, which come after holds.

    Who has it settles the hold anyway, or extends its leases: then its session's head closes it,
    or its time ends.
    """
    free = select(_HOLD.c.hold_id).where(_HOLD.c.hold_id == hold_id)
    free = free.with_for_update(key_share=True, skip_locked=True)
    if session.execute(free).one_or_none() is not None:
        mark_closed(session, hold_id)


def settle_ready(
    session: Session, *, now_s: int, limit: int, buyer: str | None = None
) -> list[SettledHold]:
    """Settle or release up to `limit` holds that are ready, the longest due first.

    `buyer`: only that account's, whose money is asked for now.
    """
    holds = _load_ready(session, now_s, min(limit, SETTLED_AT_ONCE_MAX), buyer)
    if not holds:
        return []
    lanes = _load_lanes(session, [hold.hold_id for hold in holds])
    whole = [lane_of(row) for rows in lanes.values() for row in rows]
    findings = look_for_mismatches(session, whole)
    settled = [_post(hold, lanes[hold.hold_id], findings.parked) for hold in holds]
    resolutions = [resolution for resolution, _ in settled]
    Book(session).resolve_all(resolutions, now_s=now_s, beside=findings.accounts)
    reach("settle.resolved")
    leaves: list[Leaf] = [leaf for _, leaf in settled if leaf is not None]
    if findings.mismatches:
        credited = [credit for _, leaf in settled if leaf is not None for credit in leaf.credits]
        buyers = {hold.hold_id: hold.buyer for hold in holds}
        leaves += open_disputes(session, findings, whole, credited, buyers, now_s=now_s)
    # the log's head comes last: nobody else appends until this transaction ends
    indexes = iter(Log(session).append(leaves))
    return [
        SettledHold(
            hold_id=hold.hold_id,
            buyer=hold.buyer,
            charged_nanos=leaf.charged_nanos if leaf else 0,
            fee_nanos=leaf.fee_nanos if leaf else 0,
            credits=leaf.credits if leaf else (),
            leaf_index=next(indexes) if leaf else None,
        )
        for hold, (_, leaf) in zip(holds, settled, strict=True)
    ]


def _load_ready(session: Session, now_s: int, limit: int, buyer: str | None) -> Sequence[Row[Any]]:
    unfinished = exists().where(_LANE.c.hold_id == _HOLD.c.hold_id, not_(_LANE.c.final))
    query = (
        select(_HOLD)
        .where(
            _HOLD.c.charged_nanos.is_(None),
            or_(_HOLD.c.settle_by_s < now_s, and_(_HOLD.c.closed, not_(unfinished))),
        )
        .order_by(_HOLD.c.settle_by_s, _HOLD.c.hold_id)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
    )
    if buyer is not None:
        query = query.where(_HOLD.c.buyer == buyer)
    return session.execute(query).all()


def _load_lanes(session: Session, hold_ids: Sequence[bytes]) -> dict[bytes, list[Row[Any]]]:
    """The lanes that had a receipt, by hold and in order of lease id; all rows locked."""
    query = (
        select(_LANE)
        .where(_LANE.c.hold_id.in_(hold_ids))
        .order_by(_LANE.c.lease_id)
        .with_for_update(key_share=True)
    )
    lanes: dict[bytes, list[Row[Any]]] = defaultdict(list)
    for row in session.execute(query).all():
        if row.last_sequence:
            lanes[row.hold_id].append(row)
    return lanes


@functools.lru_cache(maxsize=_PEERS_CACHED)
def _peer_of(text: str) -> PeerId:
    return PeerId.from_text(text)


def _post(
    hold: Row[Any], lanes: Sequence[Row[Any]], parked: Set[bytes]
) -> tuple[Resolution, SettlementLeaf | None]:
    """What becomes of one hold, and its entry for the log if anything was received."""
    states = [
        LaneState(_peer_of(lane.provider), lane.amount_received_nanos, lane.amount_settled_nanos)
        for lane in lanes
    ]
    settlement = settle_hold(states, hold.fee_basis_points or 0)
    postings = [
        (
            disputed_account(lane.lease_id)
            if lane.lease_id in parked
            else AccountRef(AccountCode.PROVIDER_EARNED, lane.provider),
            nanos,
        )
        for lane, (_, nanos) in zip(lanes, settlement.credits, strict=True)
    ]
    postings.append((fee_of(hold.hold_id), settlement.fee_nanos))
    resolution = Resolution(hold, settlement.charged_nanos, postings)
    return resolution, _leaf(hold, lanes, settlement, parked) if lanes else None


def _leaf(
    hold: Row[Any], lanes: Sequence[Row[Any]], settlement: HoldSettlement, parked: Set[bytes]
) -> SettlementLeaf:
    return SettlementLeaf(
        hold_id=hold.hold_id,
        charged_nanos=settlement.charged_nanos,
        fee_nanos=settlement.fee_nanos,
        fee_basis_points=hold.fee_basis_points,
        credits=tuple(
            LaneCredit(lane.lease_id, provider, nanos, lane.lease_id in parked)
            for lane, (provider, nanos) in zip(lanes, settlement.credits, strict=True)
        ),
    )
