"""Settling holds in the database: which are ready, and posting each one whole.

A hold is ready when it is closed and each of its leases has had its final receipt, or when its
time for receipts is over. One SQL transaction posts the buyer's charge, every provider's credit
and the fee, moves the watermarks, and appends the settlement to the log.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, and_, exists, not_, or_, select, update

from ledger.accounts import AccountCode, AccountRef
from ledger.balances import changed_rows
from ledger.book import CLEARING, Book
from ledger.database import Session, metadata
from ledger.errors import HoldUnknown
from ledger.leaf import LaneCredit, SettlementLeaf
from ledger.log import Log
from ledger.models import HoldRow, LaneRow
from ledger.settlement import HoldSettlement, LaneState, settle_hold
from protocol.identity import PeerId
from protocol.money import Nanos

__all__ = ["FEE", "SETTLED_AT_ONCE_MAX", "SettledHold", "mark_closed", "settle_ready"]

SETTLED_AT_ONCE_MAX = 500
"""Holds of one transaction: bounds how long the write lock is held."""

FEE = AccountRef(AccountCode.FEE)

_HOLD = metadata.tables[HoldRow.__tablename__]
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
    statement = update(_HOLD).where(_HOLD.c.hold_id == hold_id).values(closed=True)
    if changed_rows(session, statement) != 1:
        raise HoldUnknown(hold_id)


def settle_ready(session: Session, *, now_s: int, limit: int) -> list[SettledHold]:
    """Settle or release up to `limit` holds that are ready, the longest due first."""
    holds = _load_ready(session, now_s, min(limit, SETTLED_AT_ONCE_MAX))
    if not holds:
        return []
    lanes = _load_lanes(session, [hold.hold_id for hold in holds])
    book = Book(session)
    # everything at once and in one order, so that two settling workers cannot deadlock
    providers = {lane.provider for rows in lanes.values() for lane in rows}
    book.lock(
        [
            CLEARING,
            FEE,
            *(AccountRef(AccountCode.BUYER_CASH, hold.buyer) for hold in holds),
            *(AccountRef(AccountCode.PROVIDER_EARNED, provider) for provider in providers),
        ]
    )
    pairs = [(hold, _post(book, hold, lanes[hold.hold_id], now_s)) for hold in holds]
    leaves = [leaf for _, leaf in pairs if leaf is not None]
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
        for hold, leaf in pairs
    ]


def _load_ready(session: Session, now_s: int, limit: int) -> Sequence[Row[Any]]:
    unfinished = exists().where(_LANE.c.hold_id == _HOLD.c.hold_id, not_(_LANE.c.final))
    query = (
        select(_HOLD)
        .where(
            _HOLD.c.charged_nanos.is_(None),
            or_(_HOLD.c.settle_by_s < now_s, and_(_HOLD.c.closed, not_(unfinished))),
        )
        .order_by(_HOLD.c.settle_by_s, _HOLD.c.hold_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return session.execute(query).all()


def _load_lanes(session: Session, hold_ids: Sequence[bytes]) -> dict[bytes, list[Row[Any]]]:
    """The lanes that had a receipt, by hold and in order of lease id; all rows locked."""
    query = (
        select(_LANE)
        .where(_LANE.c.hold_id.in_(hold_ids))
        .order_by(_LANE.c.lease_id)
        .with_for_update()
    )
    lanes: dict[bytes, list[Row[Any]]] = defaultdict(list)
    for row in session.execute(query):
        if row.last_sequence:
            lanes[row.hold_id].append(row)
    return lanes


def _post(
    book: Book, hold: Row[Any], lanes: Sequence[Row[Any]], now_s: int
) -> SettlementLeaf | None:
    """Post one hold through the book; gives its entry for the log, if anything was received."""
    states = [
        LaneState(
            PeerId.from_text(lane.provider), lane.amount_received_nanos, lane.amount_settled_nanos
        )
        for lane in lanes
    ]
    settlement = settle_hold(states, hold.fee_basis_points or 0)
    postings = [
        (AccountRef(AccountCode.PROVIDER_EARNED, str(provider)), nanos)
        for provider, nanos in settlement.credits
    ]
    postings.append((FEE, settlement.fee_nanos))
    book.post_hold(hold.hold_id, settlement.charged_nanos, postings, now_s=now_s)
    return _leaf(hold, lanes, settlement) if lanes else None


def _leaf(hold: Row[Any], lanes: Sequence[Row[Any]], settlement: HoldSettlement) -> SettlementLeaf:
    return SettlementLeaf(
        hold_id=hold.hold_id,
        charged_nanos=settlement.charged_nanos,
        fee_nanos=settlement.fee_nanos,
        fee_basis_points=hold.fee_basis_points,
        credits=tuple(
            LaneCredit(lane.lease_id, provider, nanos)
            for lane, (provider, nanos) in zip(lanes, settlement.credits, strict=True)
        ),
    )
